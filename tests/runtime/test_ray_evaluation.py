"""Evaluation beside training, with a Ray that does what it is told; the real one is in test_ray_run.py."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raystage.config import ConfigError
from raystage.runtime import ray_evaluation
from raystage.runtime.ray_evaluation import Evaluations
from tests.training.made_run import assign, configure

TREE = {"model": {"checkpoint": "x"}, "results": []}


class MadeRay:
    """`free`: CPUs; a task is done once it has a result."""

    def __init__(self) -> None:
        self.free, self.results, self.begun, self.cancelled = 1.0, dict[int, Any](), list[str](), list[int]()

    def available_resources(self) -> dict[str, float]:
        return {"CPU": self.free}

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        def begin(checkpoint: str, request: Any) -> int:
            self.begun.append(Path(checkpoint).name)
            return len(self.begun) - 1

        return lambda function: SimpleNamespace(remote=begin)

    def wait(self, tasks: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return [task for task in tasks if task in self.results], []

    def get(self, task: int) -> Any:
        return self.results[task]

    def cancel(self, task: int, force: bool) -> None:
        self.cancelled.append(task)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> MadeRay:
    made = MadeRay()
    monkeypatch.setattr(ray_evaluation, "ray", made)
    monkeypatch.setattr(ray_evaluation, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(ray_evaluation, "_ROOM_S", 0.05)
    return made


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of those that there are, the newest last."""
    names: list[str] = []
    monkeypatch.setattr(ray_evaluation, "_newest", lambda run_dir: names[-1] if names else None)
    monkeypatch.setattr(Evaluations, "_hold", lambda self, name: Path(name))
    return names


def evaluations(folder: Path, said: list[str]) -> Evaluations:
    config = configure(folder, ["evaluation.beside_training=true", "runtime.engine=ray"])
    return Evaluations(assign(config), "cpu", said.append)


def test_nothing_begins_before_the_workers_have_and_a_new_group_ends_what_is_under_way(
    tmp_path: Path, ray: MadeRay, checkpoints: list[str]
) -> None:
    beside = evaluations(tmp_path, [])
    checkpoints.append("one")
    with beside.watching():
        _let(lambda: False, 0.05)
        assert ray.begun == []
        beside.go_on()
        _let(lambda: ray.begun == ["one"])
        checkpoints.append("two")
        beside.pause()
        assert ray.cancelled == [0]
        _let(lambda: False, 0.05)
        assert ray.begun == ["one"]
        beside.go_on()
        _let(lambda: ray.begun == ["one", "two"])
    assert ray.begun == ["one", "two"], "one at a time, and each once"


def test_results_that_cannot_be_kept_end_neither_training_nor_what_follows(
    tmp_path: Path, ray: MadeRay, checkpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise ConfigError("evaluations/x.json: cannot be written")

    monkeypatch.setattr(ray_evaluation, "keep", refuse)
    said: list[str] = []
    beside = evaluations(tmp_path, said)
    checkpoints.append("one")
    ray.results = {0: TREE, 1: TREE}
    with beside.watching():
        beside.go_on()
        _let(lambda: any("cannot be written" in line for line in said))
        checkpoints.append("two")
        _let(lambda: len(ray.begun) == 2)


@pytest.mark.parametrize("stops", [False, True])
def test_a_last_checkpoint_without_room_is_said(tmp_path: Path, ray: MadeRay, checkpoints: list[str], stops: bool) -> None:
    said: list[str] = []
    beside = evaluations(tmp_path, said)
    checkpoints.append("end")
    ray.free = 0.0
    beside.measure_last(lambda: stops)
    assert ray.begun == []
    assert len(said) == 1
    assert said[0].startswith("the last checkpoint was not evaluated; 'raystage evaluate")


def test_a_stop_does_not_wait_for_an_evaluation(tmp_path: Path, ray: MadeRay, checkpoints: list[str]) -> None:
    beside = evaluations(tmp_path, [])
    checkpoints.append("end")
    beside.measure_last(lambda: bool(ray.begun))
    beside.close()
    assert (ray.begun, ray.cancelled) == (["end"], [0])


def _let(happen: Callable[[], bool], at_most_s: float = 5.0) -> None:
    """Waits for it; for what must not happen all of the time."""
    deadline_s = time.monotonic() + at_most_s
    while not happen() and time.monotonic() < deadline_s:
        time.sleep(0.002)
    assert happen() or at_most_s < 1
