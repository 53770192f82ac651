"""The slopes of grown and from-scratch models, on made curves whose answer is known."""

import numpy as np
import pytest

from raystage.studies.dynamics import compare
from raystage.studies.equal_loss import Curve

WINDOW_TOKENS = 1.6e6


def made_curve(first: float, last: float, ahead_tokens: float = 0.0, speed: float = 1.0, seed: int = 0) -> Curve:
    """The power law 20 tokens^-0.2 from `first` to `last`, run `speed` times as fast and `ahead_tokens` ahead, with 0.1% of noise."""
    tokens = np.arange(first, last + 1, 40_000)
    noise = 1 + 0.001 * np.random.default_rng(seed).standard_normal(len(tokens))
    losses = 20 * (first + ahead_tokens + speed * (tokens - first)) ** -0.2 * noise
    return Curve(tokens, losses)


TARGET = made_curve(4e4, 6e6)


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_ratio_is_the_speed_of_learning_whatever_the_clock(speed: float, seed: int) -> None:
    grown = made_curve(4.1e6, 6.1e6, ahead_tokens=-1.8e6, speed=speed, seed=seed)
    found = compare(grown, TARGET, 4.5e6, WINDOW_TOKENS)
    assert found is not None
    assert found.ratio == pytest.approx(speed, rel=0.1)
    assert found.target_slope == pytest.approx(-0.2, rel=0.1)


def test_curves_of_equal_learning_lie_over_each_other() -> None:
    found = compare(made_curve(4.1e6, 6.1e6, ahead_tokens=-1.8e6, seed=1), TARGET, 4.5e6, WINDOW_TOKENS)
    assert found is not None
    assert found.shift_tokens == pytest.approx(-1.8e6, abs=5e4)
    assert found.loss == pytest.approx(20 * 3.5e6**-0.2, rel=2e-3)


@pytest.mark.parametrize(("ahead_tokens", "speed"), [(-4e6, 0.1), (8e6, 1.0)], ids=["above every window", "below every window"])
def test_a_loss_that_the_target_has_no_window_around_gives_nothing(ahead_tokens: float, speed: float) -> None:
    assert compare(made_curve(4.1e6, 6.1e6, ahead_tokens=ahead_tokens, speed=speed), TARGET, 4.5e6, WINDOW_TOKENS) is None
