"""The coordinator: whatever the remote controller does or forgets, decisions are those of the pure function."""

import dataclasses
import random
from collections.abc import Callable

import pytest

from raystage.pacing.controller import observe
from raystage.pacing.point import Check, Decision, Point
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Taken
from raystage.pacing.state import State
from raystage.training.coordinator import Coordinator
from tests.pacing.curves import PowerLaw, ar1, crossing_at, length_plan, run, slope_policy

Answer = tuple[State, list[Check]]
POLICY = slope_policy(length_plan(3))
LAWS = [crossing_at(200, -0.1), crossing_at(520, -0.1, origin_step=400), PowerLaw(0.0, 0.3, 3.0)]
EVERY = POLICY.check_every_steps


def recorded() -> tuple[list[Point], list[Check], list[Decision]]:
    made = run(POLICY, LAWS, ar1(3, 1200, 0.0))
    assert made.points[-1].taken == (3,), "all three changes have been applied"
    return made.points, made.checks, made.decisions


POINTS, CHECKS, DECISIONS = recorded()
FINAL, _ = observe(POLICY, State.at(POLICY.plan.untouched), POINTS)


class FakeRemote:
    """A controller elsewhere whose replies `behave` decides: it answers, is dead, comes too late or forgets first."""

    def __init__(self, policy: Policy, behave: Callable[[], str]) -> None:
        self._policy, self._behave = policy, behave
        self._state = State.at(POLICY.plan.untouched)
        self._sent: list[Point] = []
        self._last: Answer | None = None
        self.restored: list[State] = []
        self.replies: list[str] = []

    def start(self, points: list[Point]) -> None:
        self._sent = points

    def reply(self) -> Answer | None:
        behaviour = self._behave()
        self.replies.append(behaviour)
        if behaviour == "dead":
            return None  # the points never arrived
        if behaviour == "amnesiac":
            self._state = State.at(POLICY.plan.untouched)
        stale, self._last = self._last, observe(self._policy, self._state, self._sent)
        self._state = self._last[0]
        if behaviour == "late":
            return None  # the points arrived, the answer did not
        return stale if behaviour == "stale" else self._last

    def restore(self, state: State) -> None:
        self._state = state
        self.restored.append(state)


def drive(coordinator: Coordinator, points: list[Point], taken: Taken = (0,)) -> tuple[list[Check], list[Decision]]:
    """As the loop does: at a boundary resolve the interval before, ask for what is due, send the interval's points."""
    checks: list[Check] = []
    due: list[Decision] = []
    for i in range(0, len(points), EVERY):
        interval = points[i : i + EVERY]
        checks += coordinator.resolve()
        if decision := coordinator.due(interval[-1].step + 1, interval[-1].taken):
            due.append(decision)
        coordinator.send(interval)
    return checks, due


def test_without_a_remote_every_decision_is_due_at_its_effective_step() -> None:
    coordinator = Coordinator(POLICY, State.at(POLICY.plan.untouched), ())
    checks, due = drive(coordinator, POINTS)
    assert due == DECISIONS
    assert checks + coordinator.resolve() == CHECKS
    assert coordinator.state == FINAL


@pytest.mark.parametrize("behaviour", ["answers", "dead", "amnesiac", "late", "stale", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_decisions_do_not_depend_on_the_remote(behaviour: str, seed: int) -> None:
    chances = random.Random(seed)
    kinds = ["answers", "dead", "amnesiac", "late", "stale"]
    remote = FakeRemote(POLICY, lambda: chances.choice(kinds) if behaviour == "mixed" else behaviour)
    coordinator = Coordinator(POLICY, State.at(POLICY.plan.untouched), (), remote)
    checks, due = drive(coordinator, POINTS)
    assert due == DECISIONS
    assert checks + coordinator.resolve() == CHECKS
    assert coordinator.state == FINAL
    assert len(remote.replies) == len(POINTS) // EVERY


def test_a_remote_that_answers_is_taken_at_its_word_and_never_restored_again() -> None:
    remote = FakeRemote(POLICY, lambda: "answers")
    coordinator = Coordinator(POLICY, State.at(POLICY.plan.untouched), (), remote)
    drive(coordinator, POINTS[:200])
    assert remote.restored == [State.at(POLICY.plan.untouched)]


@pytest.mark.parametrize("behaviour", ["dead", "amnesiac", "late", "stale"])
def test_after_a_wrong_answer_the_remote_is_put_right(behaviour: str) -> None:
    script = iter(["answers", "answers", behaviour, "answers", "answers"])
    remote = FakeRemote(POLICY, lambda: next(script))
    coordinator = Coordinator(POLICY, State.at(POLICY.plan.untouched), (), remote)
    drive(coordinator, POINTS[:50])
    coordinator.resolve()
    wanted, _ = observe(POLICY, State.at(POLICY.plan.untouched), POINTS[:30])
    assert remote.restored == [State.at(POLICY.plan.untouched), wanted]
    assert coordinator.state == observe(POLICY, State.at(POLICY.plan.untouched), POINTS[:50])[0]


@pytest.mark.parametrize("remote_after", [False, True])
@pytest.mark.parametrize("stop", range(EVERY, len(POINTS), 7 * EVERY))
def test_points_unresolved_at_a_checkpoint_are_resolved_after_the_resume(stop: int, remote_after: bool) -> None:
    first = Coordinator(POLICY, State.at(POLICY.plan.untouched), ())
    checks, due = drive(first, POINTS[:stop])
    assert len(first.unresolved) == EVERY
    remote = FakeRemote(POLICY, lambda: "answers") if remote_after else None
    second = Coordinator(POLICY, first.state, first.unresolved, remote)
    more_checks, more_due = drive(second, POINTS[stop:])
    assert checks + more_checks + second.resolve() == CHECKS
    assert due + more_due == DECISIONS


def test_a_new_attempt_sets_a_remote_that_went_further_back() -> None:
    """The run is restored from an old checkpoint while the actor lives on and knows later points."""
    remote = FakeRemote(POLICY, lambda: "answers")
    drive(Coordinator(POLICY, State.at(POLICY.plan.untouched), (), remote), POINTS[:400])
    state, _ = observe(POLICY, State.at(POLICY.plan.untouched), POINTS[:100])
    again = Coordinator(POLICY, state, tuple(POINTS[100:110]), remote)
    assert [check.step for check in again.resolve()] == [110]
    assert again.state == observe(POLICY, State.at(POLICY.plan.untouched), POINTS[:110])[0]
    assert remote.restored == [State.at(POLICY.plan.untouched), state]


def test_a_decision_is_due_once_until_its_change_has_been_made() -> None:
    coordinator = Coordinator(POLICY, State.at(POLICY.plan.untouched), ())
    decision = DECISIONS[0]
    coordinator.send(POINTS[: decision.check_step])
    coordinator.resolve()
    step = decision.effective_step
    assert coordinator.due(step, (0,)) == decision
    assert [coordinator.due(step + offset, (0,)) for offset in (-1, 1)] == [None, None]
    assert coordinator.due(step, (1,)) is None, "a run that goes on from the checkpoint right after the change"


def test_nothing_sent_resolves_to_nothing_and_two_sends_are_a_mistake_of_the_loop() -> None:
    coordinator = Coordinator(POLICY, State.at(POLICY.plan.untouched), ())
    assert coordinator.resolve() == []
    coordinator.send(POINTS[:EVERY])
    with pytest.raises(AssertionError, match="has not been resolved"):
        coordinator.send(POINTS[EVERY : 2 * EVERY])


def test_an_interval_of_no_points_sends_nothing_that_must_be_resolved() -> None:
    coordinator = Coordinator(POLICY, State.at(POLICY.plan.untouched), (), FakeRemote(POLICY, lambda: "dead"))
    coordinator.send([])
    assert coordinator.resolve() == []
    assert coordinator.state == State.at(POLICY.plan.untouched)


def test_a_changed_loss_changes_the_decisions() -> None:
    """The test above would pass on a controller that never listens."""
    flat = [dataclasses.replace(p, loss=3.0) for p in POINTS]
    assert drive(Coordinator(POLICY, State.at(POLICY.plan.untouched), ()), flat)[1][:1] != DECISIONS[:1]


def test_a_decision_of_the_guard_outlives_a_change_and_no_rollback() -> None:
    pending = Decision("rollback", (0,), 10, 21, "guard")
    coordinator = Coordinator(POLICY, dataclasses.replace(State.at((0,)), pending=pending), ())
    assert [coordinator.due(21, taken, n_rollbacks) for taken, n_rollbacks in (((0,), 0), ((1,), 0), ((0,), 1))] == [pending, pending, None]
