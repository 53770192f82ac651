"""Compute at equal loss, on curves whose answer is known."""

import numpy as np
import pytest

from raystage.studies.equal_loss import Curve, compute_for, smoothed

FLOPS = np.geomspace(1e9, 1e12, 13)
LAW = Curve(FLOPS, 20 * FLOPS**-0.1)


@pytest.mark.parametrize("flops", [1.5e9, 1e10, 9e11])
def test_a_power_law_is_read_exactly_between_its_points(flops: float) -> None:
    assert compute_for(LAW, 20 * flops**-0.1) == pytest.approx(flops, rel=1e-9)


def test_beyond_the_curve_there_is_no_answer() -> None:
    assert compute_for(LAW, 20 * 0.9e9**-0.1) is None
    assert compute_for(LAW, 20 * 1.1e12**-0.1) is None


def test_the_first_crossing_counts() -> None:
    curve = Curve(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 2.0, 2.5, 1.0]))
    assert compute_for(curve, 2.0) == pytest.approx(2.0)


def test_smoothing_leaves_a_line_where_it_is_and_evens_out_noise() -> None:
    x = np.arange(1.0, 30.0)
    assert np.allclose(smoothed(Curve(x, 5 - 0.1 * x)).losses, 5 - 0.1 * x)
    noise = np.where(x % 2 == 0, 0.5, -0.5)
    assert np.abs(smoothed(Curve(x, 5 + noise)).losses[2:-2] - 5).max() < 0.11
