"""The guess of where a slope is reached: the law's own derivative, taken by differences, has that slope there."""

import math

import pytest

from raystage.pacing.chinchilla import tokens_at_slope

# Besiroglu et al. 2404.10102, table 1
E, A, ALPHA, B, BETA = 1.8172, 482.01, 0.3478, 2085.43, 0.3658


def law(n_parameters: float, tokens: float) -> float:
    return E + A / n_parameters**ALPHA + B / tokens**BETA


@pytest.mark.parametrize("n_parameters", [1e6, 1.24e8, 7e9])
@pytest.mark.parametrize("slope", [-0.03, -0.0575, -0.1, -0.3])
def test_the_laws_slope_at_the_tokens_is_the_one_asked_for(n_parameters: float, slope: float) -> None:
    tokens, h = tokens_at_slope(n_parameters, slope), 1e-4
    # at one size, compute is proportional to tokens, so that both have the same slope on log-log axes
    rise = math.log(law(n_parameters, tokens * (1 + h)) / law(n_parameters, tokens * (1 - h)))
    assert rise / math.log((1 + h) / (1 - h)) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("slope", [0.0, 0.1, -BETA, -1.0])
def test_a_slope_that_the_law_never_has_is_refused(slope: float) -> None:
    with pytest.raises(ValueError, match=r"must be between -0\.3658 and 0"):
        tokens_at_slope(1e6, slope)
