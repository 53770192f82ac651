"""A worker of Ray Train: one rank of a group, with a handle on the controller actor."""

from typing import Any

import ray.train

from raystage.config import ConfigError
from raystage.devices import pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.assignment import Assignment
from raystage.runtime.controller_actor import ActorController, Worker, join
from raystage.runtime.engine import FatalError
from raystage.runtime.group import Group
from raystage.runtime.secrets_file import load_secrets
from raystage.runtime.worker import cache_of, run_rank, threads_of
from raystage.storage.faults import StorageError
from raystage.training.checkpoint import CheckpointError
from raystage.training.out_of_memory import RehearsalError
from raystage.training.ports import Ask, Ending
from raystage.training.run import FencedError, TrainingError


def train_worker(settings: dict[str, Any]) -> Ending:
    """Runs on every worker; returns how it ended. Whatever it raises ends the others too, which may wait for it."""
    try:
        load_secrets()
        return _run_worker(settings["assignment"], settings["group"], Ranks.of_process(), settings["controller"])
    except (TrainingError, CheckpointError, ConfigError, RehearsalError, StorageError, FencedError) as error:
        raise FatalError(str(error)) from None


def _run_worker(assignment: Assignment, group: Group, ranks: Ranks, controller: Any) -> Ending:
    runtime, context = assignment.config.runtime, ray.train.get_context()
    join(controller, ranks.rank, Worker.here())
    try:
        device = pick_device(group.hardware.device, context.get_local_rank(), cache_of(runtime))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    threads = threads_of(runtime, context.get_local_world_size())
    handle: list[ActorController] = []

    def remote(attempt: int) -> ActorController:
        handle.append(ActorController(controller, attempt, runtime.decision_timeout_s))
        return handle[0]

    def asked(step: int, position: int) -> Ask | None:
        return handle[0].asked(step, position)

    return run_rank(assignment, device, ranks, threads, remote, asked, group.wanted)
