"""observe: the same decisions whatever the order of delivery, a state that survives JSON, dwell, tables, refusals, bounds."""

import dataclasses
import json
import math
import random
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from raystage.pacing.controller import Check, Decision, Point, State, observe
from raystage.pacing.curve import MAX_BINS
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Change, make_plan
from tests.pacing.curves import BATCH_TOKENS, PowerLaw, ar1, compute_at, crossing_at, length_plan, run, slope_policy

FLAT = PowerLaw(0.0, 0.3, 3.0)


def point(step: int, position: int = 0, loss: float = 3.0, n_steps: int = 1000) -> Point:
    return Point(step, loss, step * BATCH_TOKENS, compute_at(step), 1e-3, step / n_steps, position)


def observe_all(policy: Policy, batches: Iterable[Sequence[Point]], state: State | None = None) -> tuple[State, list[Check]]:
    state, checks = state or State(), []
    for batch in batches:
        state, due = observe(policy, state, batch)
        checks += due
    return state, checks


def policy_of_three() -> Policy:
    return slope_policy(length_plan(3))


def recorded() -> tuple[list[Point], list[Check], State]:
    """A run with two changes by slope and a third stage under way, its points and what the controller made of them."""
    laws = [crossing_at(200, -0.1), crossing_at(450, -0.1, origin_step=300), PowerLaw(5 * compute_at(100) ** 0.3, 0.3, 0.0)]
    made = run(policy_of_three(), laws, ar1(3, 900, 0.0))
    assert [d.trigger for d in made.decisions] == ["slope", "slope"]
    return made.points, made.checks, made.state


POINTS, CHECKS, STATE = recorded()


# -- delivery


@pytest.mark.parametrize("size", [1, 7, 50, 900])
def test_the_size_of_batches_changes_nothing(size: int) -> None:
    batches = [POINTS[i : i + size] for i in range(0, len(POINTS), size)]
    assert observe_all(policy_of_three(), batches) == (STATE, CHECKS)


@pytest.mark.parametrize("seed", range(5))
def test_doubled_reordered_delayed_and_resent_points_change_nothing(seed: int) -> None:
    chances = random.Random(seed)
    arrivals = [(p.step + chances.uniform(0, 60), p) for p in POINTS for _ in range(chances.choice([1, 1, 2]))]
    arrivals += [(p.step + 300, p) for p in POINTS if chances.random() < 0.1]  # long after
    in_order = [p for _, p in sorted(arrivals, key=lambda arrival: arrival[0])]
    batches = [in_order[i : i + 13] for i in range(0, len(in_order), 13)]
    assert observe_all(policy_of_three(), batches) == (STATE, CHECKS)


@pytest.mark.parametrize("seed", range(5))
def test_lost_points_hold_the_watermark_until_they_are_sent_again(seed: int) -> None:
    chances = random.Random(seed)
    kept = [p for p in POINTS if chances.random() > 0.3]
    first_lost = next(step for step, p in enumerate(POINTS, 1) if p not in kept)
    state, checks = observe_all(policy_of_three(), [kept])
    assert state.watermark == first_lost - 1
    assert [p.step for p in state.held] == [p.step for p in kept if p.step > first_lost]
    state, more = observe_all(policy_of_three(), [[p for p in POINTS if p not in kept]], state)
    assert (state, checks + more) == (STATE, CHECKS)


def test_points_at_or_below_the_watermark_are_passed_over() -> None:
    changed = [dataclasses.replace(p, loss=99.0, position=0) for p in POINTS[:700]]
    assert observe(policy_of_three(), STATE, changed) == (STATE, [])
    assert observe(policy_of_three(), STATE, []) == (STATE, [])


# -- memory


@pytest.mark.parametrize("held", [False, True])
def test_a_state_through_json_goes_on_the_same_at_any_step(held: bool) -> None:
    """Every eleventh step: before the first bin (no best loss), with an open bin, with a decision pending; with points held."""
    policy, seen_pending, seen_empty, state = policy_of_three(), 0, 0, State()
    for step in range(0, len(POINTS), 11):
        state, _ = observe(policy, state, POINTS[state.watermark : step])
        if held:
            state, _ = observe(policy, state, POINTS[step + 1 : step + 4])
        seen_pending += state.pending is not None
        seen_empty += math.isinf(state.best_loss)
        again = State.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
        assert again == state
        rest = POINTS[step : step + 60]
        assert observe(policy, again, rest) == observe(policy, state, rest)
    assert min(seen_pending, seen_empty) >= 1


def test_memory_is_bounded() -> None:
    policy = slope_policy(check_every_steps=25, threshold=-1e-9)
    state, _ = observe_all(policy, ([point(s + i, loss=3.0 + 0.1 * (s % 7)) for i in range(1000)] for s in range(1, 30_000, 1000)))
    assert state.watermark == 30_000
    assert len(state.bins) <= MAX_BINS
    assert len(json.dumps(state.to_json())) < 50_000


def test_points_held_for_ever_are_bounded_too() -> None:
    state, checks = observe(slope_policy(), State(), [point(step) for step in range(2, 30_000)])
    assert (state.watermark, checks) == (0, [])
    assert len(state.held) == 10_000
    assert state.held[0].step == 2


# -- verdicts


def reasons(policy: Policy, points: Sequence[Point]) -> list[str]:
    return [check.reason for check in observe(policy, State(), points)[1]]


def test_the_reasons_of_a_flat_stage_come_in_order() -> None:
    """Flat at once: settling (20 steps and 6 bins), the minimum dwell, one check that agrees, and the one that fires."""
    state, checks = observe(slope_policy(length_plan(1), min_dwell_tokens=100 * BATCH_TOKENS), State(), [point(s) for s in range(1, 141)])
    # the window leaves out the first bins, so six bins are there from step 120 on
    assert [check.reason for check in checks] == ["settling"] * 11 + ["above threshold", "slope", "decided"]
    assert [check.in_a_row for check in checks[-3:]] == [1, 2, 0]
    assert state.pending is not None
    assert (state.pending.check_step, state.pending.effective_step, state.pending.decision_id) == (130, 141, 1)
    assert [check.step for check in checks] == list(range(10, 141, 10))


def test_a_decision_takes_effect_one_interval_and_one_step_after_its_check() -> None:
    for every in (1, 7, 10):
        assert slope_policy(check_every_steps=every).lag_steps == every + 1
    for decision in run(policy_of_three(), [FLAT], np.zeros(600)).decisions:
        assert decision.effective_step == decision.check_step + 11


def test_no_slope_decision_at_or_before_the_minimum_dwell() -> None:
    for dwell in (200, 205):
        policy = slope_policy(min_dwell_tokens=dwell * BATCH_TOKENS, checks_in_a_row=1)
        assert run(policy, [FLAT], np.zeros(400)).decisions[0].check_step == 210


def test_several_checks_must_agree_in_a_row() -> None:
    first = run(slope_policy(checks_in_a_row=1), [FLAT], np.zeros(400)).decisions[0].check_step
    for n in (2, 5):
        assert run(slope_policy(checks_in_a_row=n), [FLAT], np.zeros(400)).decisions[0].check_step == first + 10 * (n - 1)


def test_the_maximum_dwell_ends_a_steep_stage_and_no_stage_sooner() -> None:
    policy = slope_policy(length_plan(3), max_dwell_tokens=205 * BATCH_TOKENS)
    made = run(policy, [PowerLaw(5.0, 0.3, 0.0)], ar1(1, 1000, 0.0))
    assert [d.trigger for d in made.decisions] == ["max_dwell"] * 3
    # from the change at step 221 on the next stage counts anew
    assert [d.check_step for d in made.decisions] == [210, 430, 650]
    assert [d.effective_step for d in made.decisions] == [221, 441, 661]


def test_a_new_stage_forgets_the_curve_and_counts_decisions_on() -> None:
    state, _ = observe(slope_policy(length_plan(2)), State(), [point(s) for s in range(1, 136)])
    assert state.pending is not None
    assert state.bins
    state, _ = observe(slope_policy(length_plan(2)), state, [point(136, position=1)])
    assert (state.position, state.bins, state.pending, state.in_a_row) == (1, (), None, 0)
    assert (state.next_decision_id, state.stage_start_tokens, state.best_loss) == (2, 135 * BATCH_TOKENS, math.inf)


def test_no_fit_sees_the_settling_span_nor_does_the_best_loss() -> None:
    points = [point(s, loss=1.0 if s <= 40 else 3.0) for s in range(1, 101)]
    state, _ = observe(slope_policy(settle_tokens=40 * BATCH_TOKENS), State(), points)
    assert [b.tokens_seen / BATCH_TOKENS for b in state.bins] == [45.5, 55.5, 65.5, 75.5, 85.5, 95.5]
    assert state.best_loss == 3.0


def test_a_refused_change_passes_and_the_next_one_follows() -> None:
    """Position advances without the shape changing: the same curve goes on, and the next change of the plan is asked for."""
    plan = make_plan([32], [1, 2], [32, 64], ["depth", "width"])
    policy = slope_policy(plan)
    made = run(policy, [FLAT, FLAT], np.zeros(500))
    assert [(d.decision_id, d.change) for d in made.decisions] == [(1, Change(n_layer=2)), (2, Change(d_model=64))]
    assert {check.reason for check in made.checks if check.stage == 2} == {"plan complete"}


def test_a_complete_plan_still_reports_its_slope() -> None:
    check = observe(slope_policy(length_plan(0)), State(), [point(s) for s in range(1, 301)])[1][-1]
    assert (check.reason, check.change, check.threshold, check.fired) == ("plan complete", None, None, False)
    assert check.slope == pytest.approx(0.0, abs=1e-12)


def test_a_table_decides_at_its_shares_of_the_duration_whatever_the_losses() -> None:
    policy = slope_policy(length_plan(2), rule="table", at=(0.25, 0.5), max_dwell_tokens=BATCH_TOKENS)
    for law in (FLAT, PowerLaw(5.0, 0.3, 0.0)):
        made = run(policy, [law], ar1(1, 1000, 0.0))
        assert [(d.check_step, d.effective_step, d.trigger, d.threshold) for d in made.decisions] == [
            (250, 261, "schedule", None),
            (500, 511, "schedule", None),
        ]
    assert "before its time" in {check.reason for check in made.checks}


def test_two_shares_within_one_interval_are_two_decisions() -> None:
    policy = slope_policy(length_plan(2), rule="table", at=(0.250, 0.251))
    assert [d.check_step for d in run(policy, [FLAT], np.zeros(1000)).decisions] == [250, 270]


def test_a_run_of_one_step_and_a_check_at_every_step() -> None:
    policy = slope_policy(check_every_steps=1)
    state, checks = observe(policy, State(), [point(1)])
    assert (state.watermark, len(checks), checks[0].reason) == (1, 1, "settling")
    assert len(reasons(policy, [point(s) for s in range(1, 51)])) == 50


def test_each_kind_of_change_has_its_own_threshold() -> None:
    plan = make_plan([8, 16], [1, 2], [32, 64])
    policy = dataclasses.replace(slope_policy(plan), thresholds={"length": -0.2, "depth": -0.1, "width": -0.05})
    decided: list[Decision] = run(policy, [FLAT], np.zeros(700)).decisions
    assert [(d.change.kind, d.threshold) for d in decided] == [("length", -0.2), ("depth", -0.1), ("width", -0.05)]
