"""What the engine reckons with between two groups of workers: room, ranges, failures."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus

from raystage.config import ConfigError, from_tree
from raystage.runtime.capacity import Node, capacity, places
from raystage.runtime.controller_actor import ControllerShell, DriverController, Worker
from raystage.runtime.engine import EngineError, FatalError
from raystage.runtime.failures import Failure, cause, failures_of, note_failure
from raystage.runtime.ray_failure import GroupEnd, end_of
from raystage.runtime.restarts import Restarts
from raystage.training.policy import policy_of
from raystage.training.worker_range import Workers, workers_of

STAGES = ["pacing.lengths=[64, 128, 256]", "pacing.depths=[2, 4]"]


def test_room_is_what_is_free_and_what_is_ours_on_nodes_that_stay() -> None:
    nodes = [Node("a", {"CPU": 2.5}, False), Node("b", {"CPU": 0.0}, False), Node("c", {"CPU": 8.0}, True)]
    assert capacity(nodes, {"CPU": 1.0}, {}) == 2
    assert capacity(nodes, {"CPU": 1.0}, {"b": 3, "c": 1}) == 5
    assert capacity(nodes, {"CPU": 1.0, "GPU": 1.0}, {}) == 0
    assert capacity([Node("a", {"CPU": 0.1 + 0.2}, False)], {"CPU": 0.1}, {}) == 3


def test_workers_are_packed_onto_the_nodes_with_most_room() -> None:
    nodes = [Node("a", {"CPU": 1.0}, False), Node("b", {"CPU": 4.0}, False), Node("c", {"CPU": 8.0}, True), Node("d", {"CPU": 0.0}, False)]
    assert [places(nodes, {"CPU": 1.0}, n) for n in (0, 3, 5, 9)] == [{}, {"b": 3}, {"b": 4, "a": 1}, {"b": 4, "a": 1}]


def test_a_range_takes_what_there_is_and_waits_below_its_least() -> None:
    assert [Workers(2, 4).take(room) for room in (1, 2, 3, 9)] == [None, 2, 3, 4]


def test_each_stage_has_its_workers_and_the_last_entry_holds_on() -> None:
    config = from_tree({}, [*STAGES, "runtime.stage_workers=[1, {min: 2, max: 8}]"])
    assert [workers_of(config, position) for position in range(4)] == [Workers(1, 1), *[Workers(2, 8)] * 3]
    assert workers_of(from_tree({}, ["runtime.workers=3"]), 7) == Workers(3, 3)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("runtime.workers={min: 3, max: 2}", r"runtime\.workers\.min=3: above its max=2"),
        ("runtime.workers={min: 1}", r"runtime\.workers: must be a whole number at least 1, or \{min: 1, max: 4\}"),
        ("runtime.workers=0", r"runtime\.workers=0: must be a whole number"),
        ("runtime={stage_workers: [1], engine: local}", r"runtime\.stage_workers: with engine local torchrun decides"),
        ("runtime.stage_workers=[1, 1, 1, 1, 1]", r"runtime\.stage_workers: 5 entries, but the plan has 4 stages"),
    ],
)
def test_impossible_workers_are_refused_in_a_line(override: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        from_tree({}, [*STAGES, override])


def test_failures_that_come_further_go_on_for_ever_and_others_do_not(tmp_path: Path) -> None:
    restarts = Restarts(tmp_path, max_failures=2)
    for step in range(0, 100, 10):
        restarts.after(step, "killed")
    assert "start again: killed" in restarts.after(90, "killed")
    with pytest.raises(EngineError, match="killed; given up after 2 restarts without a new step"):
        restarts.after(90, "killed")
    with pytest.raises(EngineError):
        Restarts(tmp_path, max_failures=0).after(5, "killed")


def test_workers_begin_again_where_they_are_when_they_came_further_and_nothing_was_asked() -> None:
    shell = ControllerShell(policy_of(from_tree({}, STAGES)))
    shell.begin_group()
    assert not shell.failed("before the first step")
    shell.asked(5, 0)
    assert shell.failed("killed")
    assert not shell.failed("killed again, before a step")
    shell.asked(5, 0)
    assert not shell.failed("killed again, at the same step")
    shell.asked(6, 0)
    assert shell.failed("killed")
    assert shell.ask(None, 0).failures == ((5, "killed"), (6, "killed"))
    shell.asked(7, 0)
    assert shell.ask("leave", 0).step == 7
    assert not shell.failed("killed while it was to leave")
    shell.begin_group()
    assert shell.ask(None, 0).failures == (), "another fit has its own"


class _Near:
    """The actor's handle, with the actor in this process."""

    def __init__(self, shell: ControllerShell) -> None:
        self.shell = shell

    def __getattr__(self, method: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: getattr(self.shell, method)(*arguments))


def test_a_controller_that_has_forgotten_the_workers_is_told_of_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda value, timeout: value)
    worker, other = Worker("a node", 1, "{}"), Worker("a node", 2, "{}")
    shell = ControllerShell(policy_of(from_tree({}, STAGES)))
    driver = DriverController(_Near(shell), timeout_s=1.0)
    assert _heard(driver, {}) == {}
    assert _heard(driver, {0: worker}) is None
    assert _heard(driver, {0: worker}) == {0: worker}, "it had just come back"
    assert _heard(driver, {0: worker}) is None, "the driver has heard it"
    shell.asked(5, 0)
    assert shell.failed("killed")
    assert _heard(driver, {0: worker}) == {}, "they are gone, and the driver does not know yet"
    assert _heard(driver, {0: worker}) is None
    shell.join(0, other)
    assert _heard(driver, {0: worker}) == {0: other}
    assert _heard(driver, {0: other}) is None


def _heard(driver: DriverController, known: dict[int, Worker]) -> dict[int, Worker] | None:
    word = driver.ask(None, known)
    assert word is not None
    return word.workers


def test_what_failed_workers_say_is_told_in_a_line() -> None:
    gone, peer = WorkerHealthCheckFailedError("a health check", RayActorError()), RuntimeError("gloo: Connection reset by peer")
    assert end_of({0: peer, 1: gone}).error == "the process of worker 1 is gone: killed, out of memory, or its node with it"
    assert end_of({0: peer, 1: ValueError("line\nthe last one")}) == GroupEnd(error="the last one")
    as_ray_hands_it_on = WorkerStatus(running=False, error=UserExceptionWithTraceback(FatalError("no such stage"), "a traceback"))
    polled = WorkerGroupPollStatus({0: as_ray_hands_it_on, 1: WorkerStatus(running=False, error=peer)}, {})
    assert end_of(polled.errors).fatal == "no such stage"


def test_a_batch_that_fails_twice_is_named(tmp_path: Path) -> None:
    note_failure(tmp_path, 1, 1, (57, [1]), ValueError("of an earlier command"))
    restarts = Restarts(tmp_path, max_failures=3)
    note_failure(tmp_path, 2, 1, (57, list(range(10))), ValueError("a bad token"))
    assert "look at its batch" not in restarts.after(56, "")
    note_failure(tmp_path, 3, 1, (57, list(range(10))), ValueError("a bad token"))
    said = restarts.after(56, "")
    assert "worker 1 at step 57: ValueError: a bad token; step 57 has failed 2 times" in said
    assert "rows 0, 1, 2, 3, 4, 5, 6, 7 and 2 more of the prepared corpus" in said


def test_failures_are_noted_and_that_of_a_peer_is_no_cause(tmp_path: Path) -> None:
    note_failure(tmp_path, 1, 0, (57, [3, 4]), RuntimeError("gloo: Connection reset by peer\nmore"))
    assert cause(failures_of(tmp_path)) is None
    note_failure(tmp_path, 1, 1, (57, [3, 4]), ValueError("a bad token"))
    assert cause(failures_of(tmp_path)) == Failure(1, 1, 57, (3, 4), "ValueError: a bad token")
    note_failure(tmp_path / "away", 1, 1, (57, []), ValueError("nobody to tell"))
