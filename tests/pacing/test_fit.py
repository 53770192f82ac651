"""The growth point of made curves, whose optimum is known in closed form."""

import dataclasses
import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from raystage.pacing.fit import Estimate, GrowthFit, LossCurve, fit_growth
from raystage.pacing.law import FitError, LossLaw

N_SMALL, N_LARGE = 7e6, 28e6
BATCH_TOKENS = 500_000
N_STEPS = 4000
EXPONENT = 0.7
SMALL = LossLaw(amplitude=2.2, exponent=EXPONENT, floor=3.3, reference_tokens=1e8)
LARGE = LossLaw(amplitude=1.9, exponent=EXPONENT, floor=3.0, reference_tokens=1e8)


@dataclasses.dataclass(frozen=True)
class Truth:
    loss: float
    rho: float
    threshold: float
    saving: float
    small_tokens: float


def truth(large_end: float = N_STEPS * BATCH_TOKENS) -> Truth:
    """With equal exponents the condition dC_s/dl = dC_l/dl has one solution, by hand."""
    power = 1 / EXPONENT
    q = ((N_SMALL / N_LARGE) * (SMALL.amplitude / LARGE.amplitude) ** power) ** (1 / (1 + power))
    loss = (SMALL.floor - q * LARGE.floor) / (1 - q)
    small, large = (1e8 * ((loss - law.floor) / law.amplitude) ** -power for law in (SMALL, LARGE))
    saving = (N_LARGE * large - N_SMALL * small) / (N_LARGE * large_end)
    return Truth(loss, large / small, -EXPONENT * (loss - SMALL.floor) / loss, saving, small)


def made(law: LossLaw, parameters: float, seed: int | None = None) -> LossCurve:
    """A curve of the law, one point a step; with a seed AR(1) noise of 2% and an autocorrelation of 0.5."""
    tokens = BATCH_TOKENS * np.arange(1.0, N_STEPS + 1)
    noise = np.zeros(N_STEPS)
    if seed is not None:
        noise = lfilter([1.0], [1.0, -0.5], np.random.default_rng(seed).normal(0, 0.02 * math.sqrt(1 - 0.5**2), N_STEPS))
    return LossCurve(tokens, law.loss(tokens) * (1 + noise), parameters)


def fitted(seed: int | None = None, n_resamples: int = 40) -> GrowthFit:
    other = None if seed is None else seed + 1000
    return fit_growth(made(SMALL, N_SMALL, seed), made(LARGE, N_LARGE, other), n_resamples)


def warmed(curve: LossCurve) -> LossCurve:
    """The loss begins at 6, nearly flat, and joins the law where that falls below (after some 80 steps)."""
    return dataclasses.replace(curve, loss=(curve.loss**-12 + 6.0**-12) ** (-1 / 12))


def test_without_noise_the_growth_point_is_that_of_the_closed_form() -> None:
    fit, expected = fitted(n_resamples=3), truth()
    assert fit.loss.value == pytest.approx(expected.loss, rel=1e-4)
    assert fit.rho.value == pytest.approx(expected.rho, rel=1e-2)
    assert fit.threshold.value == pytest.approx(expected.threshold, rel=1e-2)
    assert fit.saving.value == pytest.approx(expected.saving, rel=1e-2)
    assert fit.small_tokens.value == pytest.approx(expected.small_tokens, rel=1e-2)
    assert fit.large_tokens.value == pytest.approx(expected.rho * expected.small_tokens, rel=1e-2)
    assert max(fit.small.residual, fit.large.residual) < 1e-3


def test_the_closed_form_is_where_the_saving_is_largest() -> None:
    """The reference itself against a search by brute force."""
    losses = np.linspace(SMALL.floor + 0.01, 5.0, 200_000)
    small, large = (1e8 * ((losses - law.floor) / law.amplitude) ** (-1 / EXPONENT) for law in (SMALL, LARGE))
    saved = N_LARGE * large - N_SMALL * small
    assert losses[int(np.argmax(saved))] == pytest.approx(truth().loss, rel=1e-4)


def test_with_noise_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    expected, names = truth(), ("loss", "rho", "threshold", "saving", "small_tokens")
    held = dict.fromkeys(names, 0)
    fits = [fitted(seed, n_resamples=40) for seed in range(12)]
    for name in names:
        true = getattr(expected, name)
        estimates: list[Estimate] = [getattr(fit, name) for fit in fits]
        held[name] = sum(e.low <= true <= e.high for e in estimates)
        errors = [abs(e.value / true - 1) for e in estimates]
        assert float(np.median(errors)) < 0.12, name
    assert min(held.values()) >= 7, held  # of 12; an interval of 90% holds 7 or fewer once in 2,000


def test_units_of_tokens_parameters_and_loss_do_not_matter() -> None:
    small, large = made(SMALL, N_SMALL, 1), made(LARGE, N_LARGE, 2)
    plain = fit_growth(small, large, n_resamples=10)

    def scaled(curve: LossCurve) -> LossCurve:
        return LossCurve(curve.tokens / 1e9, curve.loss / math.log(2), curve.parameters / 1e6)

    other = fit_growth(scaled(small), scaled(large), n_resamples=10)
    assert dataclasses.astuple(other.rho) == pytest.approx(dataclasses.astuple(plain.rho), rel=1e-4)
    assert dataclasses.astuple(other.threshold) == pytest.approx(dataclasses.astuple(plain.threshold), rel=1e-4)
    assert dataclasses.astuple(other.saving) == pytest.approx(dataclasses.astuple(plain.saving), rel=1e-4)
    assert other.loss.value * math.log(2) == pytest.approx(plain.loss.value, rel=1e-5)
    assert other.small_tokens.value * 1e9 == pytest.approx(plain.small_tokens.value, rel=1e-4)


def test_the_same_curves_and_seed_give_the_same_numbers() -> None:
    small, large = made(SMALL, N_SMALL, 1), made(LARGE, N_LARGE, 2)
    first, second, other = (fit_growth(small, large, 10, seed) for seed in (5, 5, 6))
    assert first.rho == second.rho
    assert first.rho != other.rho


def test_warmup_and_spikes_move_the_growth_point_little() -> None:
    def spiked(curve: LossCurve) -> LossCurve:
        loss = curve.loss.copy()
        for start in range(300, len(loss), 500):
            loss[start : start + 12] *= 1.5
        return dataclasses.replace(curve, loss=loss)

    small, large = (spiked(warmed(made(law, n, seed))) for law, n, seed in ((SMALL, N_SMALL, 1), (LARGE, N_LARGE, 2)))
    dirty, clean = fit_growth(small, large, 5), fit_growth(made(SMALL, N_SMALL, 1), made(LARGE, N_LARGE, 2), 5)
    assert 80 * BATCH_TOKENS < dirty.small.tokens[0] < 400 * BATCH_TOKENS
    assert dirty.loss.value == pytest.approx(clean.loss.value, rel=0.01)
    assert dirty.rho.value == pytest.approx(truth().rho, rel=0.1)
    assert dirty.threshold.value == pytest.approx(truth().threshold, rel=0.2)


def cut_to(curve: LossCurve, tokens: float) -> LossCurve:
    kept = curve.tokens <= tokens
    return dataclasses.replace(curve, tokens=curve.tokens[kept], loss=curve.loss[kept])


@pytest.mark.parametrize("short", ["small", "large"])
def test_a_growth_point_beyond_a_curve_is_refused_and_named(short: str) -> None:
    point = truth()
    needed = point.small_tokens * (1 if short == "small" else point.rho)
    small, large = made(SMALL, N_SMALL), made(LARGE, N_LARGE)
    cut_small, cut_large = (cut_to(small, 0.7 * needed), large) if short == "small" else (small, cut_to(large, 0.7 * needed))
    with pytest.raises(FitError, match=rf"beyond the {short} curve's end .*extrapolation") as refused:
        fit_growth(cut_small, cut_large, n_resamples=3)
    named = re.search(r"([\d.e+]+) tokens of the small model and ([\d.e+]+) of the large", str(refused.value))
    assert named is not None
    assert [float(text) for text in named.groups()] == pytest.approx([point.small_tokens, point.rho * point.small_tokens], rel=0.02)
    assert "\n" not in str(refused.value)


def _tail(curve: LossCurve, from_step: int) -> LossCurve:
    return dataclasses.replace(curve, tokens=curve.tokens[from_step:], loss=curve.loss[from_step:])


def _with_loss(curve: LossCurve, loss: NDArray[np.float64]) -> LossCurve:
    return dataclasses.replace(curve, loss=loss)


FULL = made(SMALL, N_SMALL), made(LARGE, N_LARGE)
REFUSED = {
    "too few points": (cut_to(FULL[0], 10 * BATCH_TOKENS), FULL[1], "small curve has 10 points"),
    "too little span": (FULL[0], _tail(FULL[1], 2500), "large curve is too short"),
    "before the start": (FULL[0], _tail(FULL[1], 800), "before the large curve's start"),
    "no common loss": (FULL[0], _with_loss(FULL[1], FULL[1].loss / 5), "share no loss"),
    "the wrong way round": (FULL[1], FULL[0], "give the smaller one first"),
    "not rising": (dataclasses.replace(FULL[0], tokens=FULL[0].tokens[::-1]), FULL[1], "do not rise"),
    "not finite": (
        _with_loss(FULL[0], np.where(FULL[0].tokens == 7 * BATCH_TOKENS, np.nan, FULL[0].loss)),
        FULL[1],
        "not a number above 0",
    ),
    "the small model as good for ever": (_with_loss(FULL[0], LARGE.loss(FULL[0].tokens)), FULL[1], "small model still buys loss cheaper"),
    "the large model cheaper from the start": (
        FULL[0],
        _with_loss(FULL[1], LARGE.loss(FULL[1].tokens * 6)),
        "large model buys loss cheaper",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_curves_that_tell_no_growth_point_are_refused_in_one_line(case: str) -> None:
    small, large, words = REFUSED[case]
    with pytest.raises(FitError, match=words) as refused:
        fit_growth(small, large, n_resamples=3)
    assert "\n" not in str(refused.value)
