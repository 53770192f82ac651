"""The slope of a loss curve at its end, on log-log axes, with a confidence that knows that loss noise is autocorrelated."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.linalg import lapack

Array = NDArray[np.float64]
_LN10 = float(np.log(10))
MIN_POINTS, MIN_HALF_POINTS = 8, 24
# of loss = a x^-e + c in x = compute at one size: likely value (0.28 for data, Hoffmann et al. 2022) and how far that is off
EXPONENT, EXPONENT_DEVIATION = 0.28, 0.15
_LEAST_EXPONENT, _MOST_EXPONENT = 0.05, 1.0
_HUBER = 1.345  # 95% as sure as least squares under normal noise (Huber 1964)
_MAX_AUTOCORRELATION = 0.95
_MOST_ROUNDS = 4
_CONVERGED = 0.01  # of the exponent in a round: what further ones change is within a tenth of the standard error
_DISAGREEMENT = 3.0  # standard errors between two estimates that noise seldom makes


@dataclasses.dataclass(frozen=True)
class SlopeEstimate:
    """`slope` = d log10(loss) / d log10(x) at the last point; `standard_error` of it; `degrees_of_freedom` left by the noise."""

    slope: float
    standard_error: float
    degrees_of_freedom: float

    def lower_bound(self, confidence: float) -> float:
        """The value that the true slope is above with the one-sided `confidence`."""
        return self.slope - float(special.stdtrit(self.degrees_of_freedom, confidence)) * self.standard_error


def end_slope(log_x: Array, log_loss: Array, threshold: float) -> SlopeEstimate | None:
    """The slope at the end of a curve, by the longest stretch that one law describes: all of it, or the latest half.

    Where the two disagree by more than noise would have it, a law cannot follow the whole: after a change of stage a curve may begin
    anew, steeply (the choice of a bandwidth by Lepski 1991, with two of them). None below MIN_POINTS points.
    """
    whole, half = estimate_slope(log_x, log_loss, threshold), len(log_x) // 2
    if whole is None or half < MIN_HALF_POINTS:
        return whole
    latest = estimate_slope(log_x[-half:], log_loss[-half:], threshold)
    if latest is None:
        return whole
    # the error of the difference, since the half is part of the whole
    error = max(latest.standard_error**2 - whole.standard_error**2, (0.1 * latest.standard_error) ** 2) ** 0.5
    return latest if abs(latest.slope - whole.slope) > _DISAGREEMENT * error else whole


def estimate_slope(log_x: Array, log_loss: Array, threshold: float) -> SlopeEstimate | None:
    """The slope at the end of `log_loss` over `log_x`, shape (n,) each in rising order; None below MIN_POINTS points.

    A power law with a floor, a x^-e + c, fitted to the loss by Gauss-Newton steps in e and Huber's weights. The exponent is known
    beforehand, roughly, which enters as a normal prior scaled by a slope near `threshold`: a short noisy window takes it from there, a
    long clean one finds it by itself. The standard error is widened for noise that follows an AR(1) process with coefficient r:
    variance times (1 + r) / (1 - r), and n (1 - r) / (1 + r) effective points (Bayley and Hammersley 1946).
    """
    n = len(log_x)
    if n < MIN_POINTS or log_x[-1] <= log_x[0]:
        return None
    distance, loss = (log_x - log_x[-1]) * _LN10, np.exp(_LN10 * log_loss)
    usual = threshold * _median(loss)  # d loss / d log x at a slope of `threshold`
    exponent, error_scale, r = EXPONENT, 0.0, 0.0
    weights = np.ones(n)
    for i in range(_MOST_ROUNDS):
        columns = _columns(distance, exponent)
        precision, target = _normal_equations(columns, loss, weights, error_scale, usual, usual * (EXPONENT - exponent))
        fitted = _solve(precision, target)
        residual = loss - fitted @ columns
        r, scale = _autocorrelation(residual), _scale(residual)
        error_scale = scale * ((1 + r) / (1 - r)) ** 0.5
        if scale > 1e-12:
            weights = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(residual), 1e-300))
        if i > 0:  # the first round has no weight on the prior
            step = float(fitted[2]) / min(float(fitted[1]), 0.25 * usual)
            exponent = min(max(exponent + step, _LEAST_EXPONENT), _MOST_EXPONENT)
            if abs(step) < _CONVERGED:
                break
    precision, target = _normal_equations(_columns(distance, exponent), loss, weights, error_scale, usual, usual * (EXPONENT - exponent))
    covariance = _solve(precision, np.eye(3))
    level, gradient, _ = covariance @ target
    standard_error = float(covariance[1, 1]) ** 0.5 * max(error_scale, 1e-12)
    return SlopeEstimate(float(gradient / level), standard_error / float(level), max(1.0, n * (1 - r) / (1 + r) - 3))


def _columns(distance: Array, exponent: float) -> Array:
    """Of the loss at the end, of its gradient there, and of gradient times change of exponent, shape (3, n)."""
    columns = np.empty((3, len(distance)))
    decay = np.exp(-exponent * distance)
    columns[0] = 1.0
    columns[1] = (1 - decay) / exponent
    columns[2] = (decay * (1 + exponent * distance) - 1) / exponent**2
    return columns


def _normal_equations(
    columns: Array, values: Array, weights: Array, error_scale: float, usual: float, expected: float
) -> tuple[Array, Array]:
    """Precision of the coefficients in units of the noise's variance, shape (3, 3), and what it is to give, shape (3,)."""
    prior = (error_scale / (usual * EXPONENT_DEVIATION)) ** 2
    weighted = columns * weights
    precision, target = weighted @ columns.T, weighted @ values
    precision[2, 2] += prior
    target[2] += prior * expected
    return precision, target


def _solve(precision: Array, right: Array) -> Array:
    """The solution of `precision` (3, 3), positive definite; np.linalg spends most of its time before it begins on so few numbers."""
    _, solution, info = lapack.dposv(precision, right)
    if info:
        raise np.linalg.LinAlgError(f"normal equations that are not positive definite (dposv: {info})")
    return solution


def _scale(residual: Array) -> float:
    """Its standard deviation by the median, which withstands outliers; small samples make that small by chance."""
    deviations = np.abs(residual - _median(residual))
    return max(1.4826 * _median(deviations), 0.5 * float(residual @ residual / len(residual)) ** 0.5)


def _median(values: Array) -> float:
    """As np.median, which spends ten times as long on a hundred values."""
    ordered, middle = np.sort(values), len(values) // 2
    return float(ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def _autocorrelation(residual: Array) -> float:
    """Lag-1 autocorrelation, corrected for its small-sample bias and kept within [0, 0.95]."""
    centered = residual - residual.sum() / len(residual)
    variance = float(centered @ centered)
    if variance == 0.0:
        return 0.0
    r = float(centered[1:] @ centered[:-1]) / variance
    r += (2 + 4 * max(r, 0.0)) / len(residual)  # Marriott and Pope 1954, for a line; a parabola takes one more
    return min(max(r, 0.0), _MAX_AUTOCORRELATION)
