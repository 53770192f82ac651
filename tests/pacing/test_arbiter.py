"""One arbiter over all kinds of change: tracks that compete, joint changes, rules beside slopes, the stop rule, and what holds it back."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from raystage.config import from_tree
from raystage.pacing.point import Point
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Change, Kind, Plan, Shape, make_track
from raystage.training.policy import policy_of
from tests.pacing.curves import (
    BATCH_TOKENS,
    PEAK_LR,
    MadeRun,
    PowerLaw,
    ar1,
    compute_at,
    crossing_at,
    length_plan,
    run,
    slope_policy,
    wsd_rate,
)

FLAT = PowerLaw(0.0, 0.3, 3.0)
STEEP = PowerLaw(5e3, 0.3, 0.0)
START = Shape(8, 1, 32, BATCH_TOKENS)
VALUES = {"length": [16, 32], "depth": [2], "width": [64], "batch": [2 * BATCH_TOKENS]}
THRESHOLDS: dict[str, float | None] = {"length": -0.1, "depth": -0.06, "width": -0.05, "both": -0.03, "batch": -0.08, "stop": None}


def tracks_of(*kinds: Kind) -> Plan:
    """A free order: one track a kind."""
    return Plan(START, tuple(make_track({kind: VALUES[kind]}, [kind] * len(VALUES[kind])) for kind in kinds))


def in_order(*order: Kind) -> Plan:
    parts = [part for kind in order for part in kind.split("+")]
    return Plan(START, (make_track({kind: VALUES[kind][: parts.count(kind)] for kind in parts}, order),))


def kinds_of(made: MadeRun) -> list[Kind]:
    return [decision.change.kind for decision in made.decisions if decision.change]


def policy_with(plan: Plan, thresholds: dict[str, float | None] | None = None, **changed: Any) -> Policy:
    return slope_policy(plan, thresholds=THRESHOLDS | (thresholds or {}), **changed)


# -- tracks that compete


@pytest.mark.parametrize("kinds", [("length", "depth", "width"), ("width", "length", "depth")])
def test_whichever_track_reaches_its_own_threshold_first_comes_first(kinds: tuple[Kind, ...]) -> None:
    """The slope rises slowly through -0.1, -0.06 and -0.05: whatever place their tracks have, length comes first, then depth."""
    law = crossing_at(400, -0.1)
    made = run(policy_with(tracks_of(*kinds)), [law], np.zeros(4500))
    assert kinds_of(made)[0] == "length"
    # of three tracks at steeper thresholds only one can fire
    steep = run(policy_with(tracks_of(*kinds), {"length": -0.01}), [law], np.zeros(4500), stop_at_first=True)
    assert kinds_of(steep) == ["depth"]
    decision = steep.decisions[0]
    assert decision.change is not None
    assert steep.checks[-1].threshold == decision.threshold == -0.06
    assert law.slope(compute_at(decision.check_step)) > -0.06


def test_where_two_fire_at_once_the_first_track_wins() -> None:
    for kinds in (("length", "depth"), ("depth", "length")):
        made = run(policy_with(tracks_of(*kinds)), [FLAT], np.zeros(400), stop_at_first=True)
        assert kinds_of(made) == [kinds[0]]
        assert made.decisions[0].track == 0


def test_a_change_of_one_track_leaves_the_others_applied_or_refused() -> None:
    """`taken` counts both: the next head of that track, and the same heads of the others, go on competing in a new stage."""
    made = run(policy_with(tracks_of("length", "depth", "width")), [FLAT], np.zeros(900))
    assert [(d.track, d.taken) for d in made.decisions] == [(0, (0, 0, 0)), (0, (1, 0, 0)), (1, (2, 0, 0)), (2, (2, 1, 0))]
    assert [str(d.change) for d in made.decisions] == ["length 16", "length 32", "depth 2", "width 64"]
    assert made.checks[-1].reason == "plan complete"


def test_checks_in_a_row_are_counted_by_track() -> None:
    """Depth agrees from the begin, length later: length has its own checks to pass."""
    policy = policy_with(tracks_of("length", "depth"), {"length": -0.1, "depth": -0.5}, checks_in_a_row=1000)
    lengths, depths, stops = run(policy, [crossing_at(300, -0.1)], np.zeros(600)).state.in_a_row
    assert 10 < lengths < depths - 10
    assert stops == 0


def test_a_check_shows_the_candidate_nearest_to_its_threshold() -> None:
    made = run(policy_with(tracks_of("depth", "length", "width")), [PowerLaw(5e3, 0.15, 0.0)], np.zeros(400))
    assert made.decisions == []
    assert {(check.change, check.threshold) for check in made.checks if check.reason == "below threshold"} == {("length", -0.1)}


# -- joint changes


@pytest.mark.parametrize(
    ("kind", "threshold"),
    [("depth+width", -0.03), ("length+batch", -0.08), ("length+width", -0.05), ("depth+batch", -0.06), ("length+depth+width", -0.05)],
)
def test_a_joint_change_waits_for_its_last_threshold_and_both_has_its_own(kind: Kind, threshold: float) -> None:
    plan = in_order(kind)
    assert policy_with(plan).threshold(plan.changes[0]) == threshold
    decision = run(policy_with(plan), [FLAT], np.zeros(300)).decisions[0]
    assert (decision.threshold, decision.change) == (threshold, plan.changes[0])


def test_joint_and_single_changes_come_in_their_order() -> None:
    made = run(policy_with(in_order("length", "depth+width", "length+batch")), [FLAT], np.zeros(800))
    assert kinds_of(made) == ["length", "depth+width", "length+batch"]
    last = made.decisions[-1].change
    assert last == Change(seq_len_tokens=32, batch_tokens=2 * BATCH_TOKENS)


# -- a rule for the length beside growth by slope


def test_under_a_rule_for_lengths_growth_goes_by_slope_beside() -> None:
    config = from_tree(
        {"pacing": {"rule": "linear", "lengths": [64, 256], "depths": [1, 4], "warmup": {"fraction": 0.5, "step_tokens": 64}}},
        ["training.batch_tokens=2048", "pacing.thresholds.depth=-0.06"],
    )
    policy = policy_of(config)
    made = run(policy, [FLAT], np.zeros(3000))
    assert [change.kind for change in policy.plan.changes] == ["length"] * 3 + ["depth"]
    assert kinds_of(made) == ["depth"]
    assert made.decisions[0].track == 1
    assert made.points[-1].taken == (3, 1)
    # lengths begin where their shares say, the first at the step after a sixth of the run
    began = [next(p.step for p in made.points if p.taken[0] == n) for n in (1, 2, 3)]
    assert began == [501, 1001, 1501]


def test_scheduled_changes_are_not_the_controllers() -> None:
    track = make_track({"length": [16, 32]}, ["length", "length"], (0.25, 0.5))
    made = run(policy_with(Plan(START, (track,))), [FLAT], np.zeros(1000))
    assert made.decisions == []
    assert {check.reason for check in made.checks} == {"before its time", "plan complete"}
    assert made.state.stage_start_tokens == 500 * BATCH_TOKENS


# -- stop


def test_training_stops_by_slope_when_the_plan_is_complete_and_not_before() -> None:
    made = run(policy_with(length_plan(2), {"stop": -0.052}), [FLAT], np.zeros(800), rate=lambda step: PEAK_LR)
    assert [(d.action, d.taken) for d in made.decisions[:3]] == [("change", (0,)), ("change", (1,)), ("stop", (2,))]
    stop = made.decisions[2]
    assert (stop.change, stop.threshold, stop.trigger) == (None, -0.052, "slope")
    assert made.checks[-1].change in ("stop", None)


def test_a_stop_waits_for_its_threshold_and_takes_no_maximum_dwell() -> None:
    policy = policy_with(length_plan(0), {"stop": -0.052}, max_dwell_tokens=200 * BATCH_TOKENS)
    assert run(policy, [STEEP], ar1(0, 600, 0.0)).decisions == []
    law = crossing_at(400, -0.052)
    decision = run(policy, [law], np.zeros(1500), stop_at_first=True).decisions[0]
    assert decision.action == "stop"
    assert decision.check_step > 400


def test_without_a_stop_threshold_a_complete_plan_goes_on_for_ever() -> None:
    assert run(policy_with(length_plan(0)), [FLAT], np.zeros(400)).decisions == []


# -- signal and axis


@pytest.mark.parametrize("every", [1, 5, 10])
def test_the_probe_decides_where_it_is_the_signal(every: int) -> None:
    """A steep training loss and a flat probe, which only some points carry, fire; and the other way round they do not."""

    def flat_probe(point: Point) -> Point:
        return dataclasses.replace(point, probe_loss=2.5 if point.step % every == 0 else None)

    def steep_probe(point: Point) -> Point:
        return dataclasses.replace(point, probe_loss=STEEP.loss(point.compute) if point.step % every == 0 else None)

    by_probe = slope_policy(signal="probe")
    noise = ar1(0, 400, 0.0)
    assert run(by_probe, [STEEP], noise, edit=flat_probe).decisions
    assert run(by_probe, [FLAT], noise, edit=steep_probe).decisions == []
    assert run(slope_policy(), [FLAT], noise, edit=steep_probe).decisions


def test_intervals_without_a_probe_are_no_bins() -> None:
    def sometimes(point: Point) -> Point:
        return dataclasses.replace(point, probe_loss=2.5 if point.step % 30 == 0 else None)

    made = run(slope_policy(signal="probe"), [STEEP], np.zeros(300), edit=sometimes)
    assert [b.tokens_seen / BATCH_TOKENS for b in made.state.bins] == [30.0 * n for n in range(1, 11)][: len(made.state.bins)]
    assert run(slope_policy(signal="probe"), [STEEP], np.zeros(300)).state.bins == ()


@pytest.mark.parametrize("axis", ["compute", "tokens", "seconds"])
def test_the_slope_is_per_the_axis_that_was_asked_for(axis: str) -> None:
    """Loss falls as compute^-0.2; tokens rise as its square root here, and seconds as its square: slopes -0.2, -0.4 and -0.1."""

    def edit(point: Point) -> Point:
        return dataclasses.replace(point, compute=point.compute**2, seconds=point.step**4.0, loss=point.tokens_seen**-0.4)

    made = run(slope_policy(axis=axis, window_fraction=0.5), [STEEP], np.zeros(400), edit=edit)
    assert made.checks[-1].slope == pytest.approx({"compute": -0.2, "tokens": -0.4, "seconds": -0.1}[axis], rel=0.02)


# -- what holds it back


def held_between(first: int, last: int, law: PowerLaw = FLAT, **changed: Any) -> MadeRun:
    def edit(point: Point) -> Point:
        return dataclasses.replace(point, held=first <= point.step <= last)

    return run(slope_policy(length_plan(1), **changed), [law], np.zeros(500), edit=edit)


def test_no_decision_while_it_is_held_by_hand() -> None:
    assert held_between(1, 0).decisions[0].check_step < 200
    made = held_between(1, 300)
    assert {check.reason for check in made.checks if check.step <= 300} == {"held by hand"}
    assert made.decisions[0].check_step == 320, "two checks in a row, none of them while it was held"


def test_no_maximum_dwell_while_it_is_held_by_hand() -> None:
    made = held_between(1, 300, law=STEEP, max_dwell_tokens=205 * BATCH_TOKENS)
    assert [(d.check_step, d.trigger) for d in made.decisions] == [(310, "max_dwell")]


def test_a_decision_whose_time_passed_without_being_applied_is_forgotten() -> None:
    policy = slope_policy(length_plan(1))

    def never_taken(point: Point) -> Point:
        return dataclasses.replace(point, taken=(0,))

    made = run(policy, [FLAT], np.zeros(300), edit=never_taken)
    first, second = made.decisions[:2]
    assert second.check_step > first.effective_step
    assert [c.reason for c in made.checks if first.check_step < c.step < second.check_step] == ["decided", "above threshold"]


def test_after_a_rollback_the_fit_and_the_dwell_start_anew() -> None:
    def edit(point: Point) -> Point:
        return dataclasses.replace(point, n_rollbacks=int(point.step > 95), taken=(0,))

    policy = slope_policy(length_plan(1))
    without, rolled = run(policy, [FLAT], np.zeros(400)), run(policy, [FLAT], np.zeros(400), edit=edit)
    first = without.decisions[0].check_step
    assert first > 95
    assert rolled.decisions[0].check_step == first + 100
    state = run(policy, [FLAT], np.zeros(99), edit=edit).state
    assert (state.n_rollbacks, state.bins, state.stage_start_tokens) == (1, (), 95 * BATCH_TOKENS)


@pytest.mark.parametrize(("dwell", "first", "last"), [(155, 300, 600), (755, 0, 0)])
def test_the_maximum_dwell_never_fires_while_the_rate_moves(dwell: int, first: int, last: int) -> None:
    """Due in a warmup of 300 steps, it waits until half the window is steady; due in the decay from step 700 on, for ever."""
    policy = slope_policy(length_plan(1), max_dwell_tokens=dwell * BATCH_TOKENS, threshold=-1e-9)
    made = run(policy, [STEEP], ar1(0, 1000, 0.0), rate=wsd_rate(1000, 300, 300))
    assert [(d.trigger, first < d.check_step <= last) for d in made.decisions] == [("max_dwell", True)] * (last > 0)
    assert {c.reason for c in made.checks if dwell < c.step <= 300 or c.step > 700 + 10} <= {"lr moves", "plan complete"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["loss", "grad_norm"])
def test_steps_that_are_not_finite_are_left_out(field: str, bad: float) -> None:
    """Single ones move nothing; an interval, or a run, of nothing else is no bin and no decision."""

    def spoilt(point: Point) -> Point:
        return dataclasses.replace(point, loss=bad) if field == "loss" else dataclasses.replace(point, grad_norm=bad)

    def some(point: Point) -> Point:
        return spoilt(point) if point.step % 10 == 5 else point

    def stretch(point: Point) -> Point:
        return spoilt(point) if 150 <= point.step < 190 else point

    clean = run(slope_policy(), [STEEP], np.zeros(400))
    for edit, least in ((some, 38), (stretch, 34)):
        made = run(slope_policy(), [STEEP], np.zeros(400), edit=edit)
        assert len(made.state.bins) >= least
        assert made.decisions == []
        assert all(math.isfinite(b.loss) and math.isfinite(b.log_x) for b in made.state.bins)
        assert made.checks[-1].slope == pytest.approx(clean.checks[-1].slope, rel=0.02)
    assert run(slope_policy(), [FLAT], np.zeros(400), edit=spoilt).state.bins == ()
    assert run(slope_policy(), [FLAT], np.zeros(400), edit=spoilt).decisions == []
