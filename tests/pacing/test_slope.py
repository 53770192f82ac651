"""The slope estimate: known slopes, outliers, and whether its confidence is what it says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from raystage.pacing.slope import MIN_POINTS, SlopeEstimate, estimate_slope
from tests.pacing.curves import ar1

Array = NDArray[np.float64]
STEPS_PER_BIN, SETTLED_BINS = 10, 20


def made_bins(n: int, slope: float, noise: Array) -> tuple[Array, Array]:
    """log10 of compute and of a loss with this slope, in `n` bins that begin SETTLED_BINS into the run; noise is per step."""
    log_compute = np.log10(np.arange(n) + SETTLED_BINS + 0.5)
    means = noise[: n * STEPS_PER_BIN].reshape(n, STEPS_PER_BIN).mean(axis=1)
    return log_compute, np.asarray(0.6 + slope * log_compute + np.log10(1 + means), np.float64)


def known(log_compute: Array, log_loss: Array) -> SlopeEstimate:
    estimate = estimate_slope(log_compute, log_loss)
    assert estimate is not None
    return estimate


@pytest.mark.parametrize("slope", [-0.5, -0.0575, 0.0, 0.2])
@pytest.mark.parametrize("n", [MIN_POINTS, 50, 192])
def test_a_slope_without_noise_is_recovered(slope: float, n: int) -> None:
    estimate = known(*made_bins(n, slope, np.zeros(n * STEPS_PER_BIN)))
    assert estimate.slope == pytest.approx(slope, abs=1e-12)
    assert estimate.standard_error < 1e-12
    assert estimate.lower_bound(0.95) == pytest.approx(slope, abs=1e-10)


def test_too_few_points_or_constant_compute_give_none() -> None:
    n = MIN_POINTS
    assert estimate_slope(np.linspace(0.0, 1.0, n - 1), np.zeros(n - 1)) is None
    assert estimate_slope(np.full(n, 3.0), np.linspace(0.0, 1.0, n)) is None
    assert estimate_slope(np.array([]), np.array([])) is None


def test_equal_computes_among_others_are_passed_over() -> None:
    log_compute = np.repeat(np.arange(5.0), 2)
    assert known(log_compute, 1.0 - 0.1 * log_compute).slope == pytest.approx(-0.1)


@pytest.mark.parametrize("outliers", [[3, 11, 29], [37, 38, 39]])
def test_a_few_outliers_move_it_less_than_a_standard_error(outliers: list[int]) -> None:
    x, y = made_bins(40, -0.1, ar1(1, 400, 0.0))
    clean = known(x, y)
    y[outliers] += 0.3  # the loss doubles
    assert abs(known(x, y).slope - clean.slope) < max(clean.standard_error, known(x, y).standard_error)
    assert abs(float(np.polyfit(x, y, 1)[0]) - clean.slope) > 3 * clean.standard_error, "least squares is not moved: a weak test"


def test_more_confidence_is_a_lower_bound_and_a_half_is_the_slope() -> None:
    estimate = known(*made_bins(30, -0.1, ar1(2, 300, 0.5)))
    bounds = [estimate.lower_bound(confidence) for confidence in (0.5, 0.8, 0.95, 0.99)]
    assert bounds[0] == pytest.approx(estimate.slope)
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < bounds[0]


def test_correlated_noise_widens_the_error() -> None:
    def mean_error(rho: float) -> float:
        return float(np.mean([known(*made_bins(40, -0.1, ar1(seed, 400, rho))).standard_error for seed in range(40)]))

    # ten-step means of AR(1) noise of one deviation: (1 + rho) / (1 - rho) times the variance, less what falls off at the ends
    assert 1.4 < mean_error(0.5) / mean_error(0.0) < 1.9
    assert 2.4 < mean_error(0.8) / mean_error(0.0) < 3.4


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize(("n", "least"), [(10, 0.68), (20, 0.73), (60, 0.75)])
def test_the_bound_covers_about_as_often_as_it_says(n: int, least: float, rho: float) -> None:
    """At confidence 0.8, over 400 seeds measured: n = 10: 0.75 to 0.77, 20: 0.77 to 0.80, 60: 0.78 to 0.82. Two deviations are 0.04."""
    bounds = [known(*made_bins(n, -0.1, ar1(seed, n * STEPS_PER_BIN, rho))).lower_bound(0.8) for seed in range(400)]
    assert least < np.mean(np.array(bounds) <= -0.1) < 0.87
