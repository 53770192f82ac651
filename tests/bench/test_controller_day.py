"""A disturbed day of the controller on many workers decides as an undisturbed one does."""

import dataclasses

import pytest

from raystage.pacing.point import Decision
from tests.bench.controller_day import Day, Troubles
from tests.pacing.curves import MadeRun, PowerLaw, ar1, crossing_at, length_plan, run, slope_policy

POLICY = slope_policy(length_plan(3))
TROUBLES = Troubles(lost=0.1, late=0.1, doubled=0.2, shuffled=0.2, actor_killed=0.1, group_failed=0.05)


@pytest.fixture(scope="module")
def recorded() -> MadeRun:
    laws = [crossing_at(200, -0.1), crossing_at(520, -0.1, origin_step=400), PowerLaw(0.0, 0.3, 3.0)]
    made = run(POLICY, laws, ar1(3, 1200, 0.0))
    assert len(made.decisions) == 3
    return made


def _day(made: MadeRun, troubles: Troubles) -> Day:
    return Day(POLICY, made.points, n_workers=20, troubles=troubles, save_every=4, look_every=100)


@pytest.mark.parametrize("fault", [field.name for field in dataclasses.fields(Troubles)] + ["all"])
def test_decisions_and_checks_are_those_of_the_losses_alone(recorded: MadeRun, fault: str) -> None:
    day = _day(recorded, TROUBLES if fault == "all" else Troubles(**{fault: 0.3}))
    played = day.play()
    assert (played.decisions, played.checks, played.state) == (recorded.decisions, recorded.checks, recorded.state)
    assert (played.n_groups > 1) == (fault in ("group_failed", "all"))


def test_other_losses_are_other_decisions(recorded: MadeRun) -> None:
    """The test above would pass on a day that hears nothing."""
    flat = dataclasses.replace(recorded, points=[dataclasses.replace(point, loss=3.0) for point in recorded.points])
    other: list[Decision] = _day(flat, TROUBLES).play().decisions
    assert other[:1] != recorded.decisions[:1]


def test_the_actor_holds_no_more_at_the_end_than_when_it_has_filled_its_bins(recorded: MadeRun) -> None:
    day = _day(recorded, TROUBLES)
    n_bytes = day.play().n_bytes
    assert len(n_bytes) >= 12
    assert max(n_bytes) < 1.1 * max(n_bytes[:6])
    assert day.actor.calls["remind"] > 0
    assert day.actor.calls["join"] == 20 * day.played.n_groups
