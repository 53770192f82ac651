"""The learning rate: exact at both ends, known values between, warmup, re-warm and the shift that growth makes."""

import dataclasses
import math
from typing import Literal

import pytest

from raystage.config.schema import Schedule
from raystage.training.learning_rate import learning_rate_factor, rewarm_factor

Kind = Literal["wsd", "cosine", "linear", "constant"]
KINDS: tuple[Kind, ...] = ("wsd", "cosine", "linear", "constant")


def schedule(kind: Kind, **changed: float) -> Schedule:
    settings = {"warmup_steps": 0, "floor_fraction": 0.1, "decay_fraction": 0.2, "cosine_until": 0.9, **changed}
    return dataclasses.replace(Schedule(kind=kind), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_at_the_peak_and_ends_at_the_floor(kind: Kind) -> None:
    assert learning_rate_factor(schedule(kind), 1, 0.0) == 1.0
    end = 1.0 if kind == "constant" else 0.1
    assert learning_rate_factor(schedule(kind), 1000, 1.0) == pytest.approx(end, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_it_never_rises_and_never_leaves_the_floor_to_the_peak(kind: Kind) -> None:
    factors = [learning_rate_factor(schedule(kind), 5, i / 1000) for i in range(1101)]
    assert factors == sorted(factors, reverse=True)
    assert 0.1 - 1e-15 <= min(factors) <= max(factors) <= 1.0


@pytest.mark.parametrize(
    ("kind", "progress", "factor"),
    [
        ("linear", 0.5, 0.55),
        ("linear", 0.25, 0.775),
        ("cosine", 0.45, 0.55),
        ("cosine", 0.3, 0.1 + 0.9 * 0.75),
        ("cosine", 0.9, 0.1),
        ("cosine", 0.95, 0.1),
        ("wsd", 0.5, 1.0),
        ("wsd", 0.8, 1.0),
        ("wsd", 0.9, 0.55),
        ("constant", 0.9, 1.0),
    ],
)
def test_values_by_hand(kind: Kind, progress: float, factor: float) -> None:
    assert learning_rate_factor(schedule(kind), 7, progress) == pytest.approx(factor, abs=1e-12)


def test_a_decay_over_the_whole_run_and_a_floor_of_zero_or_one() -> None:
    assert learning_rate_factor(schedule("wsd", decay_fraction=1.0), 1, 0.5) == pytest.approx(0.55)
    for kind in ("wsd", "cosine", "linear"):
        assert learning_rate_factor(schedule(kind, floor_fraction=0.0), 9, 1.0) == pytest.approx(0.0, abs=1e-15)
        assert learning_rate_factor(schedule(kind, floor_fraction=1.0), 9, 0.7) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_is_linear_and_reaches_the_schedule_at_its_last_step(kind: Kind) -> None:
    warm, cold = schedule(kind, warmup_steps=4), schedule(kind)
    shares = [learning_rate_factor(warm, step, 0.1) / learning_rate_factor(cold, step, 0.1) for step in (1, 2, 3, 4, 5)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_shift_puts_the_moving_schedules_back(kind: Kind) -> None:
    for progress, shift in ((0.5, 0.2), (0.95, 0.4)):
        expected = learning_rate_factor(schedule(kind), 9, progress - shift)
        assert learning_rate_factor(schedule(kind), 9, progress, shift) == pytest.approx(expected)
    assert learning_rate_factor(schedule(kind), 9, 0.1, 0.3) == 1.0


@pytest.mark.parametrize("kind", ["wsd", "constant"])
def test_a_shift_leaves_the_plateau_and_its_decay_where_they_are(kind: Kind) -> None:
    for progress in (0.0, 0.3, 0.85, 1.0):
        assert learning_rate_factor(schedule(kind), 9, progress, 0.3) == learning_rate_factor(schedule(kind), 9, progress)


def test_rewarm_after_growth() -> None:
    assert [rewarm_factor(n, 4) for n in (1, 2, 4, 5, 100)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert rewarm_factor(None, 4) == 1.0
    assert rewarm_factor(1, 0) == 1.0
    assert math.isclose(rewarm_factor(199, 200), 0.995)
