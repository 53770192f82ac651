"""The slope estimate: known slopes at the end of bent curves, outliers, the prior, and whether its confidence is what it says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from raystage.pacing.slope import MIN_POINTS, SlopeEstimate, end_slope, estimate_slope
from tests.pacing.curves import ar1, compute_at, crossing_at

Array = NDArray[np.float64]
STEPS_PER_BIN, SETTLED_BINS = 10, 20


def made_bins(n: int, slope: float, noise: Array) -> tuple[Array, Array]:
    """log10 of compute and of a loss with this slope, in `n` bins that begin SETTLED_BINS into the run; noise is per step."""
    log_x = np.log10(np.arange(n) + SETTLED_BINS + 0.5)
    means = noise[: n * STEPS_PER_BIN].reshape(n, STEPS_PER_BIN).mean(axis=1)
    return log_x, np.asarray(0.6 + slope * log_x + np.log10(1 + means), np.float64)


def saturating(n: int, slope: float, noise: Array, exponent: float = 0.3) -> tuple[Array, Array]:
    """The same of a power law with a floor, whose slope reaches `slope` at the last of `n` bins."""
    bins = np.arange(n) + SETTLED_BINS + 0.5
    law = crossing_at(10 * bins[-1], slope, exponent)
    means = noise[: n * STEPS_PER_BIN].reshape(n, STEPS_PER_BIN).mean(axis=1)
    return np.log10(bins), np.asarray(np.log10([law.loss(compute_at(10 * b)) for b in bins]) + np.log10(1 + means), np.float64)


def known(log_x: Array, log_loss: Array, threshold: float = -0.1) -> SlopeEstimate:
    estimate = estimate_slope(log_x, log_loss, threshold)
    assert estimate is not None
    return estimate


@pytest.mark.parametrize("exponent", [0.15, 0.3, 0.5])
@pytest.mark.parametrize(("n", "tolerance"), [(50, 0.01), (192, 0.001)])
def test_a_power_law_with_a_floor_is_recovered_without_noise_whatever_the_threshold(exponent: float, n: int, tolerance: float) -> None:
    for threshold in (-0.03, -0.3):
        estimate = known(*saturating(n, -0.1, np.zeros(n * STEPS_PER_BIN), exponent), threshold)
        assert estimate.slope == pytest.approx(-0.1, rel=tolerance)
        assert estimate.lower_bound(0.98) == pytest.approx(-0.1, rel=10 * tolerance)


def test_a_flat_loss_has_no_slope_and_a_rising_one_rises() -> None:
    assert known(*made_bins(50, 0.0, np.zeros(500))).slope == pytest.approx(0.0, abs=1e-9)
    assert known(*made_bins(50, 0.2, np.zeros(500))).slope > 0.1


@pytest.mark.parametrize("slope", [-0.1, -0.0575, -0.03])
@pytest.mark.parametrize("n", [40, 100])
def test_of_a_saturating_curve_it_is_the_slope_at_the_end_where_a_line_would_tell_the_middle(slope: float, n: int) -> None:
    x, y = saturating(n, slope, np.zeros(n * STEPS_PER_BIN))
    assert known(x, y, slope).slope == pytest.approx(slope, rel=0.05)
    assert float(np.polyfit(x, y, 1)[0]) / slope > 1.08


def test_too_few_points_or_constant_compute_give_none() -> None:
    n = MIN_POINTS
    assert estimate_slope(np.linspace(0.0, 1.0, n - 1), np.zeros(n - 1), -0.1) is None
    assert estimate_slope(np.full(n, 3.0), np.linspace(0.0, 1.0, n), -0.1) is None
    assert estimate_slope(np.array([]), np.array([]), -0.1) is None


def test_equal_computes_among_others_do_no_harm() -> None:
    log_x = np.repeat(np.arange(5.0), 2)
    assert known(log_x, 1.0 - 0.1 * log_x).slope == pytest.approx(-0.1, rel=1e-3)


def test_what_is_known_of_exponents_makes_a_noisy_slope_surer_than_a_parabola_of_its_own() -> None:
    def spread(n: int, deviation: float) -> tuple[float, float]:
        curves = [saturating(n, -0.1, ar1(seed, n * STEPS_PER_BIN, 0.0, deviation)) for seed in range(40)]
        parabolas = [float(np.polyfit(x, y, 2) @ [2 * x[-1], 1, 0]) for x, y in curves]
        return float(np.std([known(x, y).slope for x, y in curves])), float(np.std(parabolas))

    ours, parabola = spread(40, 0.03)
    assert ours < 0.6 * parabola


def test_a_curve_that_begins_anew_is_judged_by_its_latest_half() -> None:
    """As after a change of stage: no power law in all the compute so far follows it, and by the whole it would look steep for ever."""
    law = crossing_at(2000, -0.1, origin_step=1000)
    steps = np.arange(1130, 2600, 15)
    log_x, log_loss = np.log10(steps), np.log10([law.loss(compute_at(step)) for step in steps.tolist()])
    true = law.slope(compute_at(2600))
    whole, best = known(log_x, log_loss), end_slope(log_x, log_loss, -0.1)
    assert best is not None
    assert abs(best.slope - true) < 0.5 * abs(whole.slope - true)
    assert best.slope == pytest.approx(true, rel=0.2)
    x, y = saturating(100, -0.1, ar1(5, 1000, 0.0))
    assert end_slope(x, y, -0.1) == known(x, y), "one law follows the whole: it is the surer"


@pytest.mark.parametrize("outliers", [[3, 11, 29], [37, 38, 39]])
def test_a_few_outliers_move_it_less_than_a_standard_error(outliers: list[int]) -> None:
    x, y = made_bins(40, -0.1, ar1(1, 400, 0.0))
    clean, least_squares = known(x, y), float(np.polyfit(x, y, 2) @ [2 * x[-1], 1, 0])
    y[outliers] += 0.3  # the loss doubles
    assert abs(known(x, y).slope - clean.slope) < max(clean.standard_error, known(x, y).standard_error)
    moved = float(np.polyfit(x, y, 2) @ [2 * x[-1], 1, 0])
    assert abs(moved - least_squares) > 2 * clean.standard_error, "least squares is not moved: a weak test"


def test_more_confidence_is_a_lower_bound_and_a_half_is_the_slope() -> None:
    estimate = known(*made_bins(30, -0.1, ar1(2, 300, 0.5)))
    bounds = [estimate.lower_bound(confidence) for confidence in (0.5, 0.8, 0.95, 0.99)]
    assert bounds[0] == pytest.approx(estimate.slope)
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < bounds[0]


def test_correlated_noise_widens_the_error() -> None:
    def mean_error(rho: float) -> float:
        # so little noise that the prior weighs nothing
        return float(np.mean([known(*made_bins(100, -0.1, ar1(seed, 1000, rho, 0.001))).standard_error for seed in range(40)]))

    # ten-step means of AR(1) noise of one deviation: (1 + rho) / (1 - rho) times the variance, less what falls off at the ends
    assert 1.4 < mean_error(0.5) / mean_error(0.0) < 2.0
    assert 2.0 < mean_error(0.8) / mean_error(0.0) < 3.4


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("confidence", [0.8, 0.98])
def test_the_bound_covers_about_as_often_as_it_says(confidence: float, n: int, rho: float) -> None:
    """Measured: 0.80 to 0.91 at 0.8, 0.97 to 1.00 at 0.98; two deviations are 0.06 and 0.02."""
    bounds = [known(*saturating(n, -0.1, ar1(seed, n * STEPS_PER_BIN, rho))).lower_bound(confidence) for seed in range(200)]
    assert confidence - (0.05 if confidence == 0.8 else 0.02) < np.mean(np.array(bounds) <= -0.1)
    assert confidence == 0.98 or np.mean(np.array(bounds) <= -0.1) < 0.95, "wider than it need be"
