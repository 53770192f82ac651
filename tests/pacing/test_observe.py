"""observe: the same decisions whatever the order of delivery, a state that survives JSON, dwell, refusals, bounds."""

import dataclasses
import json
import math
import random
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from raystage.config import from_tree
from raystage.pacing.controller import observe
from raystage.pacing.curve import MAX_BINS
from raystage.pacing.guard import GuardState
from raystage.pacing.point import Check, Decision, Point
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Change, Plan, Shape, make_track
from raystage.pacing.state import State
from raystage.training.policy import policy_of
from tests.pacing.curves import BATCH_TOKENS, PEAK_LR, PowerLaw, ar1, compute_at, crossing_at, length_plan, run, slope_policy, wsd_rate

FLAT = PowerLaw(0.0, 0.3, 3.0)
START = State.at((0,))


def point(step: int, taken: int = 0, loss: float = 3.0, n_steps: int = 1000) -> Point:
    return Point(step, loss, step * BATCH_TOKENS, compute_at(step), float(step), 1e-3, step / n_steps, (taken,))


def observe_all(policy: Policy, batches: Iterable[Sequence[Point]], state: State = START) -> tuple[State, list[Check]]:
    checks: list[Check] = []
    for batch in batches:
        state, due = observe(policy, state, batch)
        checks += due
    return state, checks


def policy_of_three() -> Policy:
    return slope_policy(length_plan(3))


def recorded() -> tuple[list[Point], list[Check], State]:
    """A run with two changes by slope and a third stage under way, its points and what the controller made of them."""
    laws = [crossing_at(200, -0.1), FLAT, PowerLaw(5 * compute_at(100) ** 0.3, 0.3, 0.0)]
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
    assert [p.step for p in state.early] == [p.step for p in kept if p.step > first_lost]
    state, more = observe_all(policy_of_three(), [[p for p in POINTS if p not in kept]], state)
    assert (state, checks + more) == (STATE, CHECKS)


def test_points_at_or_below_the_watermark_are_passed_over() -> None:
    changed = [dataclasses.replace(p, loss=99.0, taken=(0,)) for p in POINTS[:700]]
    assert observe(policy_of_three(), STATE, changed) == (STATE, [])
    assert observe(policy_of_three(), STATE, []) == (STATE, [])


# -- memory


@pytest.mark.parametrize("early", [False, True])
def test_an_actor_killed_at_any_step_goes_on_the_same(early: bool) -> None:
    """Its state goes through JSON every eleventh step: with an open interval, with a decision pending; with points beyond a gap."""
    policy, seen_pending, seen_open, state = policy_of_three(), 0, 0, START
    checks: list[Check] = []
    for step in range(0, len(POINTS), 11):
        state, due = observe(policy, state, POINTS[state.watermark : step])
        checks += due
        if early:
            state, _ = observe(policy, state, POINTS[step + 1 : step + 4])
            assert len(state.early) == 3
        seen_pending += state.pending is not None
        seen_open += state.open.n_steps > 0
        again = State.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
        assert again == state
        state = again
    state, due = observe(policy, state, POINTS)
    assert (state, checks + due) == (STATE, CHECKS)
    assert min(seen_pending, seen_open) >= 2


def test_points_and_decisions_survive_json() -> None:
    odd = dataclasses.replace(point(3), loss=math.nan, grad_norm=math.inf, held=True, probe_loss=2.5, second_moment=0.1)
    again = Point.from_json({**json.loads(json.dumps(odd.to_json(), allow_nan=False)), "kind": "train"})
    assert math.isnan(again.loss)
    assert math.isnan(again.grad_norm)
    assert dataclasses.replace(again, loss=0.0, grad_norm=0.0) == dataclasses.replace(odd, loss=0.0, grad_norm=0.0)
    decisions = run(policy_of_three(), [FLAT], np.zeros(300)).decisions
    assert decisions
    for decision in decisions:
        assert Decision.from_json(json.loads(json.dumps(dataclasses.asdict(decision)))) == decision


def test_memory_is_bounded() -> None:
    policy = slope_policy(check_every_steps=25, threshold=-1e-9)
    state, _ = observe_all(policy, ([point(s + i, loss=3.0 + 0.1 * (s % 7)) for i in range(1000)] for s in range(1, 30_000, 1000)))
    assert state.watermark == 30_000
    assert len(state.bins) <= MAX_BINS
    assert len(json.dumps(state.to_json())) < 50_000


def test_early_points_are_bounded_too() -> None:
    state, checks = observe(slope_policy(), START, [point(step) for step in range(2, 30_000)])
    assert (state.watermark, checks) == (0, [])
    assert len(state.early) == 10_000
    assert state.early[0].step == 2


# -- verdicts


def test_the_reasons_of_a_flat_stage_come_in_order() -> None:
    """Settling (until 8 bins lie in the window), one check that agrees, the one that fires; and the same again where nobody applied it."""
    _, checks = observe(slope_policy(), START, [point(s) for s in range(1, 161)])
    again = ["above threshold", "slope", "decided"]
    assert [check.reason for check in checks] == ["settling"] * 10 + again + again
    assert [check.in_a_row for check in checks[-6:]] == [1, 2, 0, 1, 2, 0]
    assert [check.step for check in checks] == list(range(10, 161, 10))


def test_a_decision_says_why_in_numbers() -> None:
    made = run(policy_of_three(), [crossing_at(200, -0.1)], ar1(3, 500, 0.0), stop_at_first=True)
    decision, check = made.decisions[0], made.checks[-1]
    assert (decision.action, decision.taken, decision.track, decision.change) == ("change", (0,), 0, Change(seq_len_tokens=16))
    assert (decision.trigger, decision.threshold, decision.reason) == ("slope", -0.1, "slope")
    assert (decision.slope, decision.slope_se) == (check.slope, check.slope_se)
    assert check.slope_bound is not None
    assert check.slope is not None
    assert -0.1 < check.slope_bound < check.slope < 0
    assert (check.change, check.fired, check.in_a_row, check.stage) == ("length", True, 2, 0)


def test_a_decision_takes_effect_one_interval_and_one_step_after_its_check() -> None:
    for every in (1, 7, 10):
        assert slope_policy(check_every_steps=every).lag_steps == every + 1
    for decision in run(policy_of_three(), [FLAT], np.zeros(600)).decisions:
        assert decision.effective_step == decision.check_step + 11


def test_no_slope_decision_at_or_before_the_minimum_dwell() -> None:
    for dwell in (200, 205):
        policy = slope_policy(min_dwell_tokens=dwell * BATCH_TOKENS, checks_in_a_row=1)
        assert run(policy, [FLAT], np.zeros(400)).decisions[0].check_step == 210


def grown_plan(kind: str) -> Plan:
    values = {"length": [16] * kind.count("length"), "depth": [4] * kind.count("depth")}
    return Plan(Shape(8, 2, 64, BATCH_TOKENS), (make_track(values, [kind]),))


def aged(p: Point) -> Point:
    """One more token a parameter every ten steps."""
    return dataclasses.replace(p, tokens_per_parameter=p.step / 10)


@pytest.mark.parametrize(("kind", "first"), [("depth", 310), ("length+depth", 310), ("length", 120)])
def test_the_slope_grows_no_model_that_has_seen_few_tokens_a_parameter(kind: str, first: int) -> None:
    policy = slope_policy(grown_plan(kind), min_tokens_per_parameter=30.0)
    made = run(policy, [FLAT], np.zeros(600), edit=aged)
    assert [(d.trigger, d.check_step) for d in made.decisions] == [("slope", first)]
    held = [check.step for check in made.checks if check.reason == "min tokens"]
    assert held == ([*range(110, 300, 10)] if first > 120 else [])
    unknown = run(policy, [FLAT], np.zeros(600))
    assert unknown.decisions[0].check_step == 120, "no floor where the parameters are not known"


def test_a_young_model_grows_all_the_same_when_its_time_has_come() -> None:
    policy = slope_policy(grown_plan("depth"), min_tokens_per_parameter=1000.0)
    last = run(dataclasses.replace(policy, last_calls=(0.5,)), [FLAT], np.zeros(600), edit=aged)
    assert [(d.check_step, d.reason) for d in last.decisions] == [(300, "last call")]
    dwelt = run(dataclasses.replace(policy, max_dwell_tokens=400 * BATCH_TOKENS), [FLAT], np.zeros(600), edit=aged)
    assert [(d.check_step, d.reason) for d in dwelt.decisions] == [(400, "max dwell")]


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


def test_the_last_call_ends_steep_stages_in_time_for_those_that_follow() -> None:
    policy = slope_policy(length_plan(3), last_calls=(0.805, 0.605, 0.405))
    made = run(policy, [PowerLaw(5.0, 0.3, 0.0)], ar1(1, 1000, 0.0))
    assert [(d.check_step, d.trigger, d.reason) for d in made.decisions] == [(step, "max_dwell", "last call") for step in (410, 610, 810)]


def test_the_last_call_waits_for_the_rate_to_stand_still_and_is_none_for_a_stop() -> None:
    policy = slope_policy(length_plan(1), last_calls=(0.2,))
    made = run(policy, [PowerLaw(5.0, 0.3, 0.0)], ar1(1, 1000, 0.0), rate=wsd_rate(1000, 300, 1))
    assert [d.reason for d in made.decisions] == ["last call"]
    assert made.decisions[0].check_step > 300
    stops = slope_policy(length_plan(0), last_calls=(0.5,), thresholds={"stop": -0.052})
    assert run(stops, [PowerLaw(5.0, 0.3, 0.0)], ar1(1, 1000, 0.0)).decisions == []


def test_a_last_call_long_past_still_lets_each_stage_settle() -> None:
    policy = slope_policy(length_plan(3), last_calls=(0.1, 0.1, 0.1), decay_begins=0.9, min_dwell_tokens=150 * BATCH_TOKENS)
    made = run(policy, [PowerLaw(5.0, 0.3, 0.0)], ar1(1, 1000, 0.0))
    assert [d.check_step for d in made.decisions] == [160, 330, 500]
    late = run(policy, [PowerLaw(5.0, 0.3, 0.0)], ar1(1, 1000, 0.0), edit=lambda p: dataclasses.replace(p, progress=0.9 + p.step / 10_000))
    assert late.decisions == [], "nothing changes while the rate decays"


@pytest.mark.parametrize(("duration_steps", "dwell_steps"), [(2441, 200), (1200, 200), (2441, 700)])
def test_every_last_call_comes_true_though_growth_warms_the_rate_up_anew(duration_steps: int, dwell_steps: int) -> None:
    overrides = ["pacing.depths=[1, 4]", "pacing.widths=[64, 128]", f"training.duration={duration_steps} steps"]
    overrides.append(f"pacing.min_dwell_tokens={dwell_steps * BATCH_TOKENS}")
    policy = policy_of(from_tree({}, [*overrides, f"training.batch_tokens={BATCH_TOKENS}"]))
    begins = {0: 0}

    def rewarmed(p: Point) -> Point:
        age = p.step - begins.setdefault(sum(p.taken), p.step)
        decay = max(0.0, (p.progress - policy.decay_begins) / (1 - policy.decay_begins))
        return dataclasses.replace(p, lr=PEAK_LR * min(1.0, (age + 1) / 200) * (1 - 0.9 * decay))

    made = run(policy, [PowerLaw(5.0, 0.3, 0.0)], ar1(1, duration_steps, 0.0), edit=rewarmed)
    assert [d.change for d in made.decisions] == list(policy.plan.changes)


def test_a_probe_loss_that_is_no_number_is_left_out() -> None:
    """Weights may be ruined after the step whose loss was still finite; a curve with NaN in it would pass every test of its slope."""
    policy = slope_policy(length_plan(1), signal="probe")
    points = [dataclasses.replace(point(step), probe_loss=math.nan if step % 20 == 0 else 3.0) for step in range(1, 1001)]
    state, checks = observe(policy, START, points)
    assert all(math.isfinite(b.loss) for b in state.bins)
    assert all(check.slope is None or math.isfinite(check.slope) for check in checks)


def test_a_new_stage_forgets_the_curve() -> None:
    policy = slope_policy(length_plan(2))
    pending = run(policy, [FLAT], np.zeros(400), stop_at_first=True)
    state, step = pending.state, pending.state.watermark + 1
    assert state.pending is not None
    assert state.bins
    state, _ = observe(policy, state, [point(step, taken=1)])
    assert (state.taken, state.bins, state.pending, state.in_a_row) == ((1,), (), None, (0, 0))
    assert (state.stage_start_tokens, state.guard, state.open.n_steps) == ((step - 1) * BATCH_TOKENS, GuardState(), 1)


def test_no_fit_sees_the_settling_span_but_the_best_loss_does() -> None:
    points = [point(s, loss=1.0 if s <= 40 else 3.0) for s in range(1, 101)]
    state, _ = observe(slope_policy(settle_tokens=40 * BATCH_TOKENS), START, points)
    assert [b.tokens_seen / BATCH_TOKENS for b in state.bins] == [45.5, 55.5, 65.5, 75.5, 85.5, 95.5]
    assert (state.guard.best_loss, state.unstable) == (1.0, True)


def test_a_complete_plan_still_reports_its_slope() -> None:
    check = observe(slope_policy(length_plan(0)), START, [point(s) for s in range(1, 301)])[1][-1]
    assert (check.reason, check.change, check.threshold, check.fired) == ("plan complete", None, None, False)
    assert check.slope == pytest.approx(0.0, abs=1e-12)


def test_a_run_of_one_step_and_a_check_at_every_step() -> None:
    policy = slope_policy(check_every_steps=1)
    state, checks = observe(policy, START, [point(1)])
    assert (state.watermark, len(checks), checks[0].reason) == (1, 1, "settling")
    assert len(observe(policy, START, [point(s) for s in range(1, 51)])[1]) == 50


def test_each_kind_of_change_has_its_own_threshold() -> None:
    track = make_track({"length": [16], "depth": [2], "width": [64]}, ["length", "depth", "width"])
    policy = slope_policy(Plan(Shape(8, 1, 32, BATCH_TOKENS), (track,)))
    policy = dataclasses.replace(policy, thresholds={"length": -0.2, "depth": -0.1, "width": -0.05})
    decided: list[Decision] = run(policy, [FLAT], np.zeros(700)).decisions
    assert [(d.change.kind, d.threshold) for d in decided if d.change] == [("length", -0.2), ("depth", -0.1), ("width", -0.05)]
