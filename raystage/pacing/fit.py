"""From two from-scratch loss curves, of a small and a large model, to the point at which growing saves the most compute.

Growing at loss l saves C_l(l) - C_s(l), what the large model would have spent to get there less what the small one did; the
most where both curves fall equally fast per compute (Shen et al. 2203.06211). C = 6 N D: N parameters, D tokens.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from raystage.pacing.law import FitError, FittedCurve, LossLaw, fit_curve, refit

__all__ = ["Estimate", "FitError", "GrowthFit", "LossCurve", "fit_growth"]

CONFIDENCE = 0.9
_MIN_RESOLVED = 0.8  # share of resampled curves that must have a growth point
_REACH = 1e3  # how far beyond the small curve the law is searched, in tokens, to say where its optimum would be
_N_SEARCHED = 600


@dataclasses.dataclass(frozen=True)
class LossCurve:
    """One model trained from scratch: tokens seen (rising) and loss, shape (n,) each; parameters that multiply per token."""

    tokens: NDArray[np.float64]
    loss: NDArray[np.float64]
    parameters: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with the interval that holds CONFIDENCE of the resampled ones: the noise's share of the doubt, not the law's."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class GrowthFit:
    """Where to grow, and what for.

    `loss`: at which to grow; `small_tokens`, `large_tokens`: that either model needs to get there; `rho`: the large ones over
    the small ones, the share of the tokens seen that count after growth; `threshold`: d log(loss) / d log(compute) of the small
    model there; `saving`: share of the compute of the whole large curve; `small`, `large`: the fitted laws.
    """

    loss: Estimate
    small_tokens: Estimate
    large_tokens: Estimate
    rho: Estimate
    threshold: Estimate
    saving: Estimate
    small: FittedCurve
    large: FittedCurve
    n_resamples: int


@dataclasses.dataclass(frozen=True)
class _Point:
    loss: float
    small_tokens: float
    large_tokens: float
    rho: float
    threshold: float
    saving: float


def fit_growth(small: LossCurve, large: LossCurve, n_resamples: int = 200, seed: int = 0) -> GrowthFit:
    """The growth point of two curves, and how sure it is. Any unit of tokens, parameters and loss will do, the same in both.

    Raises FitError when the curves are too short or too noisy, share no loss, or put the growth point outside what was measured.
    """
    if not 0 < small.parameters < large.parameters:
        raise FitError(
            f"the small model has {small.parameters:g} parameters, the large one {large.parameters:g}; give the smaller one first"
        )
    fits = fit_curve(small.tokens, small.loss, "small"), fit_curve(large.tokens, large.loss, "large")
    _check_overlap(*fits)
    ratio, end = large.parameters / small.parameters, float(large.tokens[-1])
    reach = (fits[0].tokens[0] / _REACH, fits[0].tokens[-1] * _REACH)
    best = _optimum(fits[0].law, fits[1].law, ratio, end, reach)
    if best is None:
        raise FitError(_no_optimum(fits[0], fits[1], ratio))
    _check_measured(best, *fits)
    generator = np.random.default_rng(seed)
    resampled = [_optimum(refit(fits[0], generator), refit(fits[1], generator), ratio, end, reach) for _ in range(n_resamples)]
    resolved = [point for point in resampled if point is not None]
    if len(resolved) < _MIN_RESOLVED * n_resamples:
        raise FitError(
            f"the curves are too noisy: {n_resamples - len(resolved)} of {n_resamples} resampled pairs have no growth point; "
            "train both models longer"
        )
    estimates = {field.name: _estimate(field.name, best, resolved) for field in dataclasses.fields(_Point)}
    return GrowthFit(**estimates, small=fits[0], large=fits[1], n_resamples=n_resamples)


def _check_overlap(small: FittedCurve, large: FittedCurve) -> None:
    ranges = [(curve.law.loss(curve.tokens[-1:])[0], curve.law.loss(curve.tokens[:1])[0]) for curve in (small, large)]
    if max(low for low, _ in ranges) >= min(high for _, high in ranges):
        words = [f"{high:.4g} to {low:.4g}" for low, high in ranges]
        raise FitError(
            f"the curves share no loss: after their warmups the small one falls from {words[0]}, the large one from {words[1]}; "
            "train the one that ends higher for longer"
        )


def _optimum(small: LossLaw, large: LossLaw, ratio: float, large_end: float, reach: tuple[float, float]) -> _Point | None:
    """Where the saving stops rising as the loss falls; None if it nowhere does. `ratio`: of parameters, `reach`: small tokens searched."""
    log_tokens = np.linspace(np.log(reach[0]), np.log(reach[1]), _N_SEARCHED)
    losses = small.loss(np.exp(log_tokens))
    losses = losses[losses > large.floor]
    gains = np.array([_gain(small, large, ratio, loss) for loss in losses])
    peaks = np.flatnonzero((gains[:-1] > 0) & (gains[1:] <= 0))
    if not len(peaks):
        return None
    # two laws of this form have one peak at most
    loss = float(optimize.brentq(lambda value: _gain(small, large, ratio, value), losses[peaks[0] + 1], losses[peaks[0]], xtol=1e-14))
    small_tokens, large_tokens = small.tokens(loss), large.tokens(loss)
    saving = (large_tokens - small_tokens / ratio) / large_end
    return _Point(loss, small_tokens, large_tokens, large_tokens / small_tokens, small.log_slope(loss), saving)


def _gain(small: LossLaw, large: LossLaw, ratio: float, loss: float) -> float:
    """Logarithm of dC_l/dl over dC_s/dl: above 0 the small model still buys loss at the lower price."""
    price_s = small.tokens(loss) / (small.exponent * max(loss - small.floor, 1e-300))
    price_l = ratio * large.tokens(loss) / (large.exponent * (loss - large.floor))
    return math.log(price_l) - math.log(price_s)


def _no_optimum(small: FittedCurve, large: FittedCurve, ratio: float) -> str:
    loss = max(float(small.law.loss(small.tokens[-1:])[0]), float(large.law.loss(large.tokens[-1:])[0]))
    if _gain(small.law, large.law, ratio, loss) > 0:
        return (
            f"the small model still buys loss cheaper at loss {loss:.4g}, and its law nowhere says otherwise: no growth point in sight; "
            "train both models longer"
        )
    return (
        f"the large model buys loss cheaper from its first loss to {loss:.4g}: growing saves nothing; compare with a smaller model, or "
        "check that tokens and parameters belong to these curves"
    )


def _check_measured(best: _Point, small: FittedCurve, large: FittedCurve) -> None:
    where = f"loss {best.loss:.4g}, {best.small_tokens:.3g} tokens of the small model and {best.large_tokens:.3g} of the large one"
    for name, tokens, curve in (("small", best.small_tokens, small), ("large", best.large_tokens, large)):
        if tokens > curve.tokens[-1]:
            raise FitError(
                f"the growth point lies beyond the {name} curve's end at {curve.tokens[-1]:.3g} tokens: its law puts it at {where}, "
                "which is an extrapolation; train this model at least so far"
            )
        if tokens < curve.tokens[0]:
            raise FitError(
                f"the growth point lies before the {name} curve's start at {curve.tokens[0]:.3g} tokens (its warmup is left out): "
                f"its law puts it at {where}, which is an extrapolation; record the early loss or compare models closer in size"
            )
    if best.saving <= 0:
        raise FitError(f"growing saves nothing: at the best point ({where}) the small model has spent more than the large one would have")


def _estimate(name: str, best: _Point, resolved: list[_Point]) -> Estimate:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile([getattr(point, name) for point in resolved], [tail, 100 - tail])
    return Estimate(getattr(best, name), float(low), float(high))
