"""Ray's own call that starts a process ahead of need: it must still do what spares are for."""

import importlib
import os
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray

from raystage.runtime import ray_spare
from raystage.runtime.controller_actor import Worker
from raystage.runtime.ray_spare import Spares, environment_with_imports


class _Holder:
    """Stands for a worker of Ray Train."""

    def worker(self) -> Worker:
        return Worker.here()


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_worker_after_a_death_is_the_spare_that_its_node_kept(cluster: None) -> None:
    first = _start()
    spares, before = Spares(after_s=0), _python_processes()
    for _ in range(3):  # seen, kept, and not kept twice
        spares.look({0: ray.get(first.worker.remote())})
    spare = _one_more_than(before)
    time.sleep(1)
    assert _python_processes() - before == {spare}
    ray.kill(first)
    assert ray.get(_start().worker.remote()).process_id == spare


def test_a_job_with_a_setup_hook_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch, cluster: None) -> None:
    assert environment_with_imports() == {
        "env_vars": {ray_spare.WORKER_PROCESS_SETUP_HOOK_ENV_VAR: "raystage.runtime.ray_spare.import_all"}
    }
    job: Any = type("Context", (), {"runtime_env": {"env_vars": {ray_spare.WORKER_PROCESS_SETUP_HOOK_ENV_VAR: "theirs.hook"}}})
    monkeypatch.setattr(ray, "get_runtime_context", job)
    assert environment_with_imports() == {}


@pytest.mark.parametrize("module", ray_spare._MODULES)
def test_everything_that_a_spare_imports_is_there(module: str) -> None:
    importlib.import_module(module)


def _start() -> Any:
    return ray.remote(_Holder).options(num_cpus=1, runtime_env={"env_vars": {"OF": "a spare"}}).remote()


def _python_processes() -> set[int]:
    return {child.pid for child in psutil.Process(os.getpid()).children(recursive=True) if "ray::" in " ".join(child.cmdline())}


def _one_more_than(before: set[int]) -> int:
    deadline_s = time.monotonic() + 60
    while not (new := _python_processes() - before):
        assert time.monotonic() < deadline_s, "no spare process in a minute"
        time.sleep(0.1)
    (spare,) = new
    return spare
