"""Compute at equal loss, on curves whose answer is known."""

import numpy as np
import pytest

from raystage.studies.equal_loss import Curve, compute_between, compute_for, loss_at, slope_at, smoothed

FLOPS = np.linspace(1e9, 1e11, 100)
LAW = Curve(FLOPS, 20 * FLOPS**-0.1)
ENDS = [(flops, 20 * flops**-0.1) for flops in (4e10, 1e10, 2e10)]


@pytest.mark.parametrize("flops", [1e10, 3e10, 8.9e10])
def test_a_power_law_is_read_exactly(flops: float) -> None:
    assert loss_at(LAW, flops) == pytest.approx(20 * flops**-0.1, rel=1e-9)
    assert compute_for(LAW, 20 * flops**-0.1) == (pytest.approx(flops, rel=1e-6), "")


def test_beyond_a_curve_its_ends_are_bounds() -> None:
    assert compute_for(LAW, 20 * 0.9e9**-0.1) == (1e9, "at most")
    assert compute_for(LAW, 20 * 1.2e11**-0.1) == (1e11, "at least")
    assert loss_at(LAW, 1e8) is None


def test_a_slope_is_that_of_the_law() -> None:
    assert slope_at(LAW, 3e10) == pytest.approx(-0.1)
    assert slope_at(LAW, 1e8) is None


def test_a_plateau_tells_no_compute_that_was_never_spent() -> None:
    """Its line is so flat that it has another loss far away only."""
    noise = np.random.default_rng(0)
    for _ in range(300):
        flat = Curve(FLOPS[1::2], 3.0 + noise.normal(0, 0.005, 50))
        flops, _ = compute_for(flat, 2.999)
        assert FLOPS[1] <= flops <= FLOPS[-1]


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_noise_makes_no_savings(level: float) -> None:
    """An arm that is the baseline with other noise saves nothing in the mean; a first crossing alone would."""
    noise, saved = np.random.default_rng(0), []
    for _ in range(200):
        base, own = (Curve(FLOPS[1::2], LAW.losses[1::2] + noise.normal(0, 0.005, 50)) for _ in range(2))
        loss = loss_at(base, level * FLOPS[-1])
        assert loss is not None
        spent, bound = compute_for(own, loss)
        assert not bound
        saved.append(1 - spent / (level * FLOPS[-1]))
    assert abs(np.mean(saved)) < 3 * np.std(saved) / np.sqrt(200) + 0.002


@pytest.mark.parametrize("flops", [1e10, 1.5e10, 3.9e10])
def test_between_ends_a_power_law_is_read_exactly(flops: float) -> None:
    assert compute_between(ENDS, 20 * flops**-0.1) == (pytest.approx(flops, rel=1e-9), "")


def test_beyond_the_ends_the_nearest_is_a_bound() -> None:
    assert compute_between(ENDS, 20 * 5e10**-0.1) == (4e10, "at least")
    assert compute_between(ENDS, 20 * 9e9**-0.1) == (1e10, "at most")


def test_smoothing_leaves_a_line_where_it_is_and_evens_out_noise() -> None:
    x = np.arange(1.0, 30.0)
    assert np.allclose(smoothed(Curve(x, 5 - 0.1 * x)).losses, 5 - 0.1 * x)
    noise = np.where(x % 2 == 0, 0.5, -0.5)
    assert np.abs(smoothed(Curve(x, 5 + noise)).losses[2:-2] - 5).max() < 0.11
