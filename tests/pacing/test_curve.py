"""Bins: means that add up, bounded memory that keeps the whole stage in sight, and the steady part of the learning rate."""

import math

import pytest

from raystage.pacing.curve import MAX_BINS, Bin, append, log_axes, merge, steady_tail


def step_bin(step: int, n_steps: int = 10, lr: float = 1.0) -> Bin:
    return Bin(n_steps, float(step), math.log10(step), 2.0 + 1.0 / step, lr, lr)


def all_bins(n: int) -> tuple[Bin, ...]:
    bins: tuple[Bin, ...] = ()
    for i in range(1, n + 1):
        bins = append(bins, step_bin(10 * i))
    return bins


def test_merged_bins_hold_weighted_means_and_the_range_of_the_rate() -> None:
    merged = merge(Bin(1, 10.0, 1.0, 4.0, 0.5, 0.6), Bin(3, 30.0, 2.0, 2.0, 0.2, 0.55))
    assert merged == Bin(4, 25.0, 1.75, 2.5, 0.2, 0.6)


@pytest.mark.parametrize("n", [1, MAX_BINS - 1, MAX_BINS, MAX_BINS + 1, MAX_BINS + 2, 1000])
def test_no_step_is_lost_and_no_mean_moves(n: int) -> None:
    bins = all_bins(n)
    assert len(bins) <= MAX_BINS
    assert sum(b.n_steps for b in bins) == 10 * n
    assert sum(b.n_steps * b.tokens_seen for b in bins) / (10 * n) == pytest.approx(10 * (n + 1) / 2)
    assert [b.tokens_seen for b in bins] == sorted(b.tokens_seen for b in bins)


def test_a_hundred_thousand_steps_stay_bounded_with_the_whole_stage_in_sight() -> None:
    bins = all_bins(10_000)
    assert MAX_BINS // 2 - 1 <= len(bins) <= MAX_BINS
    sizes = {b.n_steps for b in bins[:-1]}
    assert len(sizes) == 1, "bins of unequal size: the latest would weigh as much as all that was before"
    assert bins[-1].n_steps <= bins[0].n_steps
    assert sum(b.tokens_seen > 40_000 for b in bins) > 0.5 * len(bins)


def test_steady_tail_stops_where_the_rate_moves() -> None:
    rising = tuple(step_bin(i, lr=i / 10) for i in range(1, 11))
    flat = tuple(step_bin(i, lr=1.0 + 0.0001 * (i % 2)) for i in range(11, 31))
    assert steady_tail(rising + flat) == rising[-1:] + flat
    assert steady_tail(flat) == flat
    assert steady_tail(rising) == rising[-1:]
    assert steady_tail(()) == ()
    assert steady_tail((Bin(10, 1.0, 1.0, 2.0, 0.9, 1.0),)) == (), "the rate moves inside one bin"


def test_steady_tail_sees_a_slow_drift() -> None:
    drifting = tuple(step_bin(i, lr=1.0 - 0.002 * i) for i in range(1, 51))
    tail = steady_tail(drifting)
    assert tail[0].lr_max <= tail[-1].lr_min * 1.01
    assert 4 <= len(tail) <= 6


def test_a_short_last_bin_fills_up_before_a_new_one_begins() -> None:
    bins = append((step_bin(10, n_steps=20), step_bin(30, n_steps=5)), step_bin(40, n_steps=10))
    assert [b.n_steps for b in bins] == [20, 15]
    assert [b.n_steps for b in append(bins, step_bin(50, n_steps=10))] == [20, 15, 10], "it would outgrow the others"


def test_log_axes_are_base_ten() -> None:
    x, y = log_axes((Bin(1, 1.0, 3.0, 100.0, 1.0, 1.0), Bin(1, 2.0, 4.0, 10.0, 1.0, 1.0)))
    assert (x.tolist(), y.tolist()) == ([3.0, 4.0], [2.0, 1.0])
