"""A cluster of one's own: Ray's tables must still say whose workers and resources are whose, and no process is there that nobody needs."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raystage.config import Config
from raystage.config.schema import Runtime
from raystage.runtime.ray_actors import end_fits, free_resources, kill_train_workers, train_workers
from raystage.runtime.ray_cluster import connect


class RayTrainWorker:
    def process_id(self) -> int:
        return os.getpid()


class TrainController:
    """Stands for Ray Train's, whose processes and groups are known by the names of the classes."""

    def start_a_worker(self) -> int:
        group = placement_group([{"CPU": 1}])
        ray.get(group.ready())
        in_group = PlacementGroupSchedulingStrategy(placement_group=group)
        self._worker = _start(RayTrainWorker, num_cpus=1, scheduling_strategy=in_group)
        return int(ray.get(self._worker.process_id.remote()))

    def start_a_fit_of_its_own(self) -> None:
        self._nested = _start(TrainController, num_cpus=0)
        ray.get(self._nested.start_a_worker.remote())


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        connect(Config(runtime=Runtime(workers=3)))
        yield
        ray.shutdown()


def test_no_worker_is_started_before_one_is_asked_for(cluster: None) -> None:
    time.sleep(2)  # Ray would start them by itself, with the cluster
    processes = psutil.Process().children(recursive=True)
    assert any("raylet" in process.name() for process in processes)
    assert [process for process in processes if "ray::IDLE" in process.cmdline()[:1]] == []


def test_workers_and_resources_of_our_fits_and_of_no_others(cluster: None) -> None:
    n_cpus = ray.cluster_resources()["CPU"]
    ours = _start(TrainController, num_cpus=0)
    process_id = ray.get(ours.start_a_worker.remote())
    ray.get(ours.start_a_fit_of_its_own.remote())
    assert [process_id for _, process_id in train_workers(ours)] == [process_id]
    assert kill_train_workers(ours) == 1
    _wait_until(lambda: not train_workers(ours))
    assert ray.available_resources()["CPU"] == n_cpus - 2, "the group holds its resources without the worker"
    ray.kill(ours)
    free_resources(ours)
    _wait_until(lambda: ray.available_resources()["CPU"] == n_cpus - 1)


def test_a_fit_that_is_ended_takes_its_workers_along(cluster: None) -> None:
    ours = _start(TrainController, num_cpus=0)
    process_id = ray.get(ours.start_a_worker.remote())
    end_fits(ours)
    _wait_until(lambda: not psutil.pid_exists(process_id))


def _start(kind: Any, **options: Any) -> Any:
    return ray.remote(kind).options(**options).remote()


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
