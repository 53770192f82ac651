"""Ray's own call that starts a process ahead of need: it must still do what spares are for."""

import importlib
import os
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from raystage.runtime import ray_spare
from raystage.runtime.controller_actor import Worker
from raystage.runtime.hardware import Hardware
from raystage.runtime.ray_spare import Spares, imports_first, warm_environment

pytestmark = pytest.mark.long

VARIABLE = ray_spare.WORKER_PROCESS_SETUP_HOOK_ENV_VAR


class _Holder:
    """Stands for a worker of Ray Train."""

    def worker(self) -> Worker:
        return Worker.here()

    def environment_of_a_child(self, runtime_env: dict[str, Any]) -> str:
        child: Any = ray.remote(_Holder).options(num_cpus=0, runtime_env=runtime_env).remote()
        worker: Worker = ray.get(child.worker.remote())
        return worker.environment


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    of_the_job = {"env_vars": {"OF_THE_JOB": "a value, with ü"}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=of_the_job)
    yield
    ray.shutdown()


def test_a_worker_after_a_death_is_the_spare_that_its_node_kept(cluster: None) -> None:
    first = _start()
    spares, before = Spares(after_s=0), {ray.get(first.worker.remote()).process_id}
    for _ in range(3):  # seen, kept, and not kept twice
        spares.look({0: ray.get(first.worker.remote())})
    spare = _one_more_than(before)
    time.sleep(3)  # it registers with its node
    assert _holders() == before | {spare}
    ray.kill(first)
    assert ray.get(_start().worker.remote()).process_id == spare


def test_what_a_worker_gets_is_foreseen_to_the_letter(cluster: None) -> None:
    ours = {**Hardware("cpu", {}).variables, **imports_first()}
    own: dict[str, Any] = WorkerGroup._get_worker_runtime_env({"env_vars": ours})
    hook = own["env_vars"][VARIABLE]
    own["env_vars"][VARIABLE] = "builtins.dict"  # imports nothing
    variables = {**get_env_vars_to_propagate(), "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0"}  # as Ray Train starts its controller
    train_controller: Any = ray.remote(_Holder).options(num_cpus=0, runtime_env={"env_vars": variables}).remote()
    assert ray.get(train_controller.environment_of_a_child.remote(own)) == warm_environment().replace(hook, "builtins.dict")


def test_a_job_with_a_setup_hook_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_spare, "_job_environment", lambda: {"env_vars": {VARIABLE: "theirs.hook"}})
    assert imports_first() == {}


@pytest.mark.parametrize("module", ray_spare._MODULES)
def test_everything_that_a_spare_imports_is_there(module: str) -> None:
    importlib.import_module(module)


def _start() -> Any:
    return ray.remote(_Holder).options(num_cpus=1, runtime_env={"env_vars": {"OF": "a spare"}}).remote()


def _holders() -> set[int]:
    """Processes with the environment of `_start`."""
    return {child.pid for child in psutil.Process(os.getpid()).children(recursive=True) if _is_holder(child)}


def _is_holder(process: psutil.Process) -> bool:
    try:
        return process.environ().get("OF") == "a spare"
    except psutil.Error:  # it ended meanwhile
        return False


def _one_more_than(before: set[int]) -> int:
    deadline_s = time.monotonic() + 60
    while not (new := _holders() - before):
        assert time.monotonic() < deadline_s, "no spare process in a minute"
        time.sleep(0.1)
    (spare,) = new
    return spare
