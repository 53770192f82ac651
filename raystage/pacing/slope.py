"""The slope of a loss curve on log-log axes, with a confidence that knows that loss noise is autocorrelated."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
MIN_POINTS = 6
_MAX_AUTOCORRELATION = 0.95


@dataclasses.dataclass(frozen=True)
class SlopeEstimate:
    """`slope` = d log10(loss) / d log10(compute); `standard_error` of it; `degrees_of_freedom` left by the noise."""

    slope: float
    standard_error: float
    degrees_of_freedom: float

    def lower_bound(self, confidence: float) -> float:
        """The value that the true slope is above with the one-sided `confidence`."""
        return self.slope - float(special.stdtrit(self.degrees_of_freedom, confidence)) * self.standard_error


def estimate_slope(log_compute: Array, log_loss: Array) -> SlopeEstimate | None:
    """Theil-Sen slope of `log_loss` over `log_compute`, shape (n,) each; None below MIN_POINTS points.

    The standard error is that of least squares with a robust scale, widened for noise that follows
    an AR(1) process with coefficient r: variance times (1 + r) / (1 - r), and n (1 - r) / (1 + r)
    effective points (Bayley and Hammersley 1946). Sources: Theil 1950; Sen 1968.
    """
    n = len(log_compute)
    if n < MIN_POINTS:
        return None
    spread = log_compute - log_compute.mean()
    sum_of_squares = float(spread @ spread)
    if sum_of_squares == 0.0:
        return None
    upper = np.triu_indices(n, 1)
    rise = log_loss[upper[1]] - log_loss[upper[0]]
    run = log_compute[upper[1]] - log_compute[upper[0]]
    slope = float(np.median(rise[run > 0] / run[run > 0]))
    residual = log_loss - slope * log_compute
    residual = residual - np.median(residual)
    # the median of absolute deviations withstands outliers; small samples make it small by chance
    scale = max(1.4826 * float(np.median(np.abs(residual))), 0.5 * float(residual.std()))
    r = _autocorrelation(residual)
    widening = (1 + r) / (1 - r)
    standard_error = scale * np.sqrt(widening / sum_of_squares)
    return SlopeEstimate(slope, float(standard_error), max(1.0, n / widening - 2))


def _autocorrelation(residual: Array) -> float:
    """Lag-1 autocorrelation, corrected for its small-sample bias and kept within [0, 0.95]."""
    centered = residual - residual.mean()
    variance = float(centered @ centered)
    if variance == 0.0:
        return 0.0
    r = float(centered[1:] @ centered[:-1]) / variance
    r += (1 + 4 * max(r, 0.0)) / len(residual)  # Marriott and Pope 1954
    return min(max(r, 0.0), _MAX_AUTOCORRELATION)
