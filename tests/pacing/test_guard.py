"""The guard: what counts as unstable, what the controller does about it, and how it gets over it."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from raystage.pacing.controller import observe
from raystage.pacing.guard import GuardState, judge
from raystage.pacing.interval import Interval
from raystage.pacing.point import Point
from raystage.pacing.policy import GuardPolicy
from raystage.pacing.state import State
from tests.pacing.curves import BATCH_TOKENS, MadeRun, PowerLaw, ar1, length_plan, run, slope_policy

FLAT = PowerLaw(0.0, 0.3, 3.0)
STEEP = PowerLaw(5e3, 0.3, 0.0)
ALL = GuardPolicy(loss_ratio=1.2, grad_norm_ratio=3.0, second_moment_ratio=5.0)


def interval(loss: float = 3.0, grad_norm: float = 1.0, second_moment: float | None = 2.0) -> Interval:
    return Interval(n_steps=10, loss_sum=10 * loss, grad_norm=grad_norm, second_moment=second_moment)


def after(policy: GuardPolicy, intervals: list[Interval]) -> GuardState:
    state = GuardState()
    for one in intervals:
        state, unstable = judge(policy, state, one)
        assert unstable is None
    return state


# -- what is unstable


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (interval(loss=3.61), "loss ratio"),
        (interval(grad_norm=3.01), "gradient norm"),
        (interval(second_moment=10.01), "second moment"),
        (interval(loss=3.61, grad_norm=9.0, second_moment=99.0), "loss ratio"),
        (interval(loss=3.59, grad_norm=2.99, second_moment=9.99), None),
    ],
)
def test_each_ratio_has_its_name_and_its_limit(bad: Interval, name: str | None) -> None:
    assert judge(ALL, after(ALL, [interval()] * 8), bad)[1] == name


def test_a_ratio_of_none_is_not_looked_at() -> None:
    blind = GuardPolicy(loss_ratio=None, grad_norm_ratio=None, second_moment_ratio=None)
    assert judge(blind, after(blind, [interval()] * 8), interval(99.0, 99.0, 99.0))[1] is None


def test_the_loss_is_judged_by_the_best_interval_and_the_others_by_their_mean() -> None:
    state = after(ALL, [interval(loss=2.0), *[interval(loss=2.3)] * 7])
    assert state.best_loss == 2.0
    assert judge(ALL, state, interval(loss=2.41))[1] == "loss ratio"
    norms = after(ALL, [interval(grad_norm=g) for g in (1.0, 2.0, 3.0, 2.0)])
    assert norms.grad_norm == pytest.approx(2.0)


def test_running_means_are_judged_by_only_after_five_calm_intervals_the_loss_at_once() -> None:
    for n in range(8):
        state = after(ALL, [interval()] * n)
        assert (judge(ALL, state, interval(grad_norm=50.0))[1] == "gradient norm") == (n >= 5)
        assert (judge(ALL, state, interval(loss=50.0))[1] == "loss ratio") == (n >= 1)


def test_means_are_plain_at_first_and_forget_later() -> None:
    assert after(ALL, [interval(grad_norm=g) for g in (1.0, 2.0, 3.0, 6.0)]).grad_norm == pytest.approx(3.0)
    long = after(ALL, [interval(grad_norm=1.0)] * 200 + [interval(grad_norm=2.0)])
    assert long.grad_norm == pytest.approx(1.05), "one in twenty, however long the stage"


def test_the_mean_second_moment_begins_where_it_is_first_measured() -> None:
    state = after(ALL, [interval(second_moment=m) for m in (*[None] * 8, 2.0)])
    assert state.second_moment == 2.0
    assert judge(ALL, state, interval(second_moment=9.0))[1] is None
    assert judge(ALL, state, interval(second_moment=10.1))[1] == "second moment"


def test_an_unstable_interval_moves_nothing_it_is_judged_by() -> None:
    state = after(ALL, [interval()] * 8)
    assert judge(ALL, state, interval(grad_norm=50.0))[0] == state
    assert judge(ALL, state, interval(loss=2.0))[0] != state


def test_second_moments_come_only_now_and_then() -> None:
    state = after(ALL, [interval(second_moment=m) for m in (2.0, None, None, 2.0, None, None, None)])
    assert state.second_moment == pytest.approx(2.0)
    assert judge(ALL, state, interval(second_moment=None))[1] is None
    assert judge(ALL, state, interval(second_moment=11.0))[1] == "second moment"


# -- what the controller does


def spiked(field: str, factor: float, first: int, last: int, action: str = "hold", n_steps: int = 400, **changed: Any) -> MadeRun:
    """A steep run in which `field` is `factor` times as large from step `first` to `last`."""
    guard = GuardPolicy(1.2, 3.0, 5.0, action)  # type: ignore[arg-type]
    policy = slope_policy(length_plan(3), guard=guard, **changed)

    def edit(point: Point) -> Point:
        usual = dataclasses.replace(point, grad_norm=1.0, second_moment=2.0)
        return dataclasses.replace(usual, **{field: factor * getattr(usual, field)}) if first <= point.step <= last else usual

    return run(policy, [STEEP], ar1(0, n_steps, 0.0, 0.01), edit=edit)


SPIKES = [("loss", 4.0, "loss ratio"), ("grad_norm", 4.0, "gradient norm"), ("second_moment", 6.0, "second moment")]


@pytest.mark.parametrize(("field", "factor", "reason"), SPIKES)
@pytest.mark.parametrize("action", ["rollback", "stop"])
def test_a_spike_is_acted_on_at_the_check_that_saw_it(field: str, factor: float, reason: str, action: str) -> None:
    decision = spiked(field, factor, 203, 204, action).decisions[0]
    assert (decision.action, decision.trigger, decision.reason, decision.check_step) == (action, "guard", reason, 210)
    assert (decision.effective_step, decision.change, decision.slope) == (221, None, None)


@pytest.mark.parametrize(("field", "factor", "reason"), SPIKES)
def test_hold_decides_nothing_and_is_over_with_the_spike(field: str, factor: float, reason: str) -> None:
    made = spiked(field, factor, 203, 228)
    assert made.decisions == []
    assert [check.step for check in made.checks if check.reason == reason] == [210, 220, 230]


def test_a_flat_loss_does_not_trigger_while_gradients_are_unstable_and_does_soon_after() -> None:
    def edit(last: int) -> MadeRun:
        def large(point: Point) -> Point:
            return dataclasses.replace(point, grad_norm=9.0 if 90 <= point.step <= last else 1.0)

        policy = slope_policy(length_plan(1), guard=GuardPolicy(1.2, 3.0, None), checks_in_a_row=2, min_dwell_tokens=150 * BATCH_TOKENS)
        return run(policy, [FLAT], np.zeros(400), edit=large)

    calm, unstable = edit(0).decisions[0], edit(250).decisions[0]
    assert calm.check_step < 200
    assert unstable.check_step == 270, "checks in a row count anew after the hold: 260 and 270"


def test_in_the_settling_span_the_loss_alone_is_judged() -> None:
    for field, factor, reason in SPIKES:
        made = spiked(field, factor, 11, 40, "stop", n_steps=200, settle_tokens=40 * BATCH_TOKENS)
        assert [(d.reason, d.check_step) for d in made.decisions[:1]] == ([(reason, 20)] if field == "loss" else [])


def test_a_jump_that_recovers_in_the_settling_span_is_no_trouble() -> None:
    """The loss after a change of stage is highest at its begin."""
    made = spiked("loss", 2.0, 1, 40, "stop", n_steps=200, settle_tokens=40 * BATCH_TOKENS)
    assert made.decisions == []


def test_a_new_stage_has_a_best_loss_of_its_own() -> None:
    """The loss at a longer context or of a grown model may begin anywhere."""
    policy = slope_policy(length_plan(2), guard=GuardPolicy(1.2, None, None, "stop"), max_dwell_tokens=150 * BATCH_TOKENS)
    made = run(policy, [STEEP, PowerLaw(1e4, 0.3, 0.0)], np.zeros(280))
    assert [d.action for d in made.decisions] == ["change"]
    assert made.state.guard.best_loss == pytest.approx(made.points[-5].loss, rel=0.01)


def test_after_a_rollback_the_best_loss_is_forgotten_so_that_it_cannot_ask_for_another() -> None:
    """A loss that stays high after the rollback is the new measure: one decision, not one each check."""

    def doubled(n_rollbacks: int) -> MadeRun:
        def edit(point: Point) -> Point:
            back = n_rollbacks if point.step >= 221 else 0
            return dataclasses.replace(point, loss=point.loss * (2 if point.step > 200 else 1), n_rollbacks=back)

        return run(slope_policy(guard=GuardPolicy(1.2, None, None, "rollback")), [STEEP], np.zeros(300), edit=edit)

    assert [d.effective_step for d in doubled(n_rollbacks=1).decisions] == [221]
    assert len(doubled(n_rollbacks=0).decisions) > 1, "the rollback was not carried out: it is asked for again"


def test_a_decision_stands_and_is_not_made_again_while_the_spike_lasts() -> None:
    assert [d.check_step for d in spiked("loss", 4.0, 203, 219, "rollback", n_steps=230).decisions] == [210]


def test_weights_that_turn_unstable_between_a_decision_and_its_change_are_answered() -> None:
    """The change was decided at 150 for 161, the trouble of 155 to 160 is seen at 160."""
    calm = spiked("loss", 1.0, 1, 1, "rollback", n_steps=400, max_dwell_tokens=150 * BATCH_TOKENS).decisions[0]
    assert (calm.action, calm.check_step, calm.effective_step) == ("change", 150, 161)
    made = spiked("loss", 4.0, 155, 160, "rollback", n_steps=175, max_dwell_tokens=150 * BATCH_TOKENS)
    assert [(d.action, d.trigger, d.check_step, d.effective_step) for d in made.decisions] == [
        ("change", "max_dwell", 150, 161),
        ("rollback", "guard", 160, 171),
    ]


def test_the_answer_does_not_depend_on_how_many_points_come_at_once() -> None:
    """A group that leaves between two boundaries sends points of two stages in one go."""

    def edit(point: Point) -> Point:
        return dataclasses.replace(point, loss=point.loss * (4 if 201 <= point.step <= 210 else 1), taken=(int(point.step > 214),))

    policy = slope_policy(length_plan(2), guard=GuardPolicy(1.2, None, None, "rollback"))
    points = run(policy, [STEEP], np.zeros(216), edit=edit).points
    at_once, _ = observe(policy, State.at((0,)), points)
    assert at_once.pending is not None
    assert (at_once.pending.action, at_once.pending.check_step, at_once.pending.effective_step) == ("rollback", 210, 221)
    assert at_once.taken == (1,)
    rolled_back = dataclasses.replace(points[-1], step=217, n_rollbacks=1)
    assert observe(policy, at_once, [rolled_back])[0].pending is None
