"""One group of workers: a fit of Ray Train in a thread, from its start to its end."""

import dataclasses
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import get_current_placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raystage.config import ConfigError
from raystage.devices import pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.controller_actor import ActorController, Worker, join
from raystage.runtime.engine import FatalError
from raystage.runtime.failures import is_of_peers
from raystage.runtime.ray_storage import ray_storage
from raystage.runtime.worker import Assignment, run_rank
from raystage.storage.faults import StorageError
from raystage.training.checkpoint import CheckpointError
from raystage.training.ports import Ask, Ending
from raystage.training.rehearsal import RehearsalError
from raystage.training.run import FencedError, TrainingError
from raystage.training.worker_range import Workers


@dataclasses.dataclass(frozen=True)
class GroupEnd:
    """`ending`: None where the group failed; `fatal`: what every further group would meet again; `error`: what Ray says of a failure."""

    ending: Ending | None = None
    fatal: str | None = None
    error: str = ""


class Fit(threading.Thread):
    """`fit` blocks; in a thread of its own it leaves the main one to signals and to the watch."""

    def __init__(self, assignment: Assignment, group: Workers, controller: Any, number: int, n_workers: int, use_gpu: bool) -> None:
        super().__init__(name="ray-train-fit", daemon=True)
        self._result: GroupEnd | None = None
        self._trainer = TorchTrainer(
            _train_worker,  # type: ignore[arg-type]  # mypy sees the trainer of Ray Train v1
            train_loop_config={"assignment": assignment, "group": group, "controller": controller},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=n_workers, use_gpu=use_gpu),
            run_config=RunConfig(
                name=f"driver-{os.getpid()}-{number}",
                **ray_storage(assignment),
                # every failure is the engine's to answer, who may find other nodes by then
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # type: ignore[call-arg]
            ),
        )

    def run(self) -> None:
        try:
            ending = self._trainer.fit().return_value  # type: ignore[attr-defined]
            self._result = GroupEnd(ending, error="the workers ended without a word")
        except Exception as error:  # whatever it is, the engine answers it
            self._result = GroupEnd(fatal=_fatal(error), error=_cause(error))

    def end(self) -> GroupEnd:
        """How it ended, once it has."""
        assert self._result is not None
        return self._result


def kill_workers(workers: Sequence[Worker]) -> None:
    """Ends worker processes for good: a frozen one heeds nothing else."""
    kill, there = ray.remote(_kill), NodeAffinitySchedulingStrategy
    calls = [
        kill.options(num_cpus=0, max_retries=0, scheduling_strategy=there(w.node_id, soft=False)).remote(w.process_id) for w in workers
    ]
    ray.wait(calls, num_returns=len(calls), timeout=30)


def free_resources(workers: Sequence[Worker]) -> None:
    """Gives back what a group held whose controller was killed; Ray's own cleaner needs the dashboard for it."""
    for placement in {worker.placement for worker in workers if worker.placement is not None}:
        remove_placement_group(placement)


def _kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)


def _train_worker(settings: dict[str, Any]) -> Ending:
    """Runs on every worker; returns how it ended. Whatever it raises ends the others too, which may wait for it."""
    try:
        return _run_worker(settings["assignment"], settings["group"], Ranks.of_process(), settings["controller"])
    except (TrainingError, CheckpointError, ConfigError, RehearsalError, StorageError, FencedError) as error:
        raise FatalError(str(error)) from None


def _run_worker(assignment: Assignment, group: Workers, ranks: Ranks, controller: Any) -> Ending:
    runtime, context = assignment.config.runtime, ray.train.get_context()
    join(controller, ranks.rank, Worker(ray.get_runtime_context().get_node_id(), os.getpid(), get_current_placement_group()))
    device = pick_device("cuda" if runtime.device != "cpu" and ray.get_gpu_ids() else "cpu", context.get_local_rank())
    threads = runtime.threads_per_worker or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
    handle: list[ActorController] = []

    def remote(attempt: int) -> ActorController:
        handle.append(ActorController(controller, attempt, runtime.decision_timeout_s))
        return handle[0]

    def asked(step: int, position: int) -> Ask | None:
        return handle[0].asked(step, position)

    return run_rank(assignment, device, ranks, threads, remote, asked, group)


def _fatal(error: Exception) -> str | None:
    """The message of a FatalError that a worker raised; Ray hands its traceback on as text."""
    mark = f"{FatalError.__name__}: "
    failures = (str(failure) for failure in (getattr(error, "worker_failures", None) or {}).values())
    return next((failure.rpartition(mark)[2].strip() for failure in failures if mark in failure), None)


def _cause(error: Exception) -> str:
    """In one line: a worker that is gone before what the others say of it, else the last line of the innermost error."""
    if isinstance(error, RayActorError):
        return "Ray Train's controller is gone: killed, or out of memory"
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in failures.items():
        if isinstance(failure, RayActorError):
            return f"the process of worker {rank} is gone: killed, out of memory, or its node with it"
    inner = next((failure for failure in failures.values() if not is_of_peers(str(failure))), None) or error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1] if lines else type(inner).__name__
