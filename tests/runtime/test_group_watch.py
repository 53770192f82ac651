"""What the driver does about a group of workers that trains, without a cluster: silence, failures, room, nodes that leave."""

from types import SimpleNamespace
from typing import Any

import pytest

import raystage.runtime.group_watch as watch_module
from raystage.config import Config, from_tree
from raystage.runtime.controller_actor import Word, Worker
from raystage.runtime.group import Group
from raystage.runtime.group_watch import GroupWatch
from raystage.training.worker_range import Workers

HERE, THERE = Worker("node-1", 11, "{}"), Worker("node-2", 22, "{}")
BOTH = {0: HERE, 1: THERE}
WAIT = ["runtime.resize_check_s=1", "runtime.stall_minutes=2"]


class Scene:
    """A watch over a group of `n_workers`, whose controller says the words given, whose cluster has `room`, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n_workers: int = 2, wanted: int = 4, *more: str) -> None:
        self.asked: list[Any] = []
        self.said: list[str] = []
        self.prepared: list[Any] = []
        self.n_kills, self.now_s, self.room = 0, 0.0, n_workers
        self.nodes: list[Any] = [SimpleNamespace(node_id="node-1", is_leaving=False), SimpleNamespace(node_id="node-2", is_leaving=False)]
        monkeypatch.setattr(watch_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(watch_module, "ray_nodes", lambda: self.nodes)
        monkeypatch.setattr(watch_module, "places", lambda nodes, need, n: n)
        hardware: Any = SimpleNamespace(room=lambda nodes, ours: self.room, need=None)
        controller: Any = SimpleNamespace(ask=lambda ask, workers: self._hear(ask), kill_workers=self._kill)
        restarts: Any = SimpleNamespace(after=lambda step, error: f"failed after step {step}: {error}")
        spares: Any = SimpleNamespace(look=lambda workers: None, prepare=self.prepared.append)
        config: Config = from_tree({}, [*WAIT, *more])
        group = Group(1, Workers(1, wanted), n_workers, 0, hardware)
        self.watch = GroupWatch(controller, group, n_workers, restarts, spares, config, self.said.append)

    def _hear(self, ask: Any) -> Word | None:
        self.asked.append(ask)
        return self._word

    def _kill(self) -> bool:
        self.n_kills += 1
        return True

    def look(self, step: int = 5, age_s: float = 0.0, workers: dict[int, Worker] | None = None, stop: bool = False, **more: Any) -> None:
        """One look, two seconds after the one before."""
        self.now_s += 2.0
        self._word: Word | None = Word(step, more.pop("position", 0), age_s, more.pop("failures", ()), workers, 1, False)
        self.watch.look(stop)


def test_silence_is_ended_after_the_time_that_the_user_gave_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.look(workers=BOTH)
    scene.look(age_s=119)
    assert scene.n_kills == 0
    scene.look(age_s=121)
    scene.look(age_s=123)
    assert scene.n_kills == 1, "those killed get as long to be replaced"
    assert scene.said == ["no step for 121 s (runtime.stall_minutes): the workers were killed"]
    scene.now_s += 120
    scene.look(age_s=243)
    assert scene.n_kills == 2


def test_new_workers_in_place_of_killed_ones_may_be_killed_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.look(workers=BOTH)
    scene.look(age_s=121)
    scene.look(workers={0: HERE, 1: Worker("node-2", 33, "{}")})
    scene.look(age_s=121)
    assert scene.n_kills == 2


@pytest.mark.parametrize(("storage", "patience_s"), [("runs", 120), ("s3://bucket/runs", 120 + 600)])
def test_a_rank_that_waits_for_storage_elsewhere_is_not_frozen(monkeypatch: pytest.MonkeyPatch, storage: str, patience_s: int) -> None:
    scene = Scene(monkeypatch, 2, 4, f"storage={storage}", "checkpoint.storage_retry_minutes=10")
    scene.look(workers=BOTH)
    scene.look(age_s=patience_s - 1)
    assert scene.n_kills == 0
    scene.look(age_s=patience_s + 1)
    assert scene.n_kills == 1


def test_workers_on_their_way_get_two_minutes_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 2, 4, "runtime.stall_minutes=0.5")
    scene.look(step=-1, age_s=119, workers={0: HERE})
    assert scene.n_kills == 0
    scene.look(step=-1, age_s=121)
    assert scene.n_kills == 1


def test_more_room_is_first_prepared_for_then_taken_if_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.look(workers=BOTH)
    scene.room = 3
    scene.look()
    assert (scene.prepared, scene.said) == ([1], []), "it may be gone at the next look"
    scene.look()
    scene.look()
    assert scene.said == ["there is room for 3 workers: 2 workers will save and leave, and training goes on with all that fit"]
    assert scene.asked[-1] == "leave"


def test_room_beyond_what_the_stage_wants_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 2, 2)
    scene.room = 8
    for _ in range(4):
        scene.look(workers=BOTH)
    assert (scene.said, scene.prepared, set(scene.asked)) == ([], [], {None})


def test_a_node_that_will_leave_with_workers_on_it_is_left_at_once_another_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.nodes.append(SimpleNamespace(node_id="node-3", is_leaving=True))
    scene.look(workers=BOTH)
    assert scene.said == []
    scene.nodes[1].is_leaving = True
    scene.look()
    assert [line.split(":")[0] for line in scene.said] == ["a node in use will be taken away"]


def test_nothing_is_changed_while_workers_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.room = 4
    for _ in range(4):
        scene.look(workers={0: HERE})
    assert (scene.said, scene.prepared) == ([], [])


def test_failures_are_told_once_each_and_the_group_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.look(step=40, workers=BOTH, position=1)
    assert (scene.watch.reached_step, scene.watch.position, scene.watch.is_restarting) == (40, 1, False)
    scene.look(step=-1, failures=((40, "killed"),))
    assert scene.watch.is_restarting
    assert scene.watch.workers == {}
    scene.look(step=30, failures=((40, "killed"),), workers=BOTH)
    assert (scene.said, scene.watch.is_restarting) == (["failed after step 40: killed"], False)
    assert scene.watch.reached_step == 40, "the furthest"


def test_a_stop_goes_before_all_else_and_is_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    for _ in range(3):
        scene.look(workers=BOTH, stop=True)
    assert scene.asked == ["stop"] * 3
