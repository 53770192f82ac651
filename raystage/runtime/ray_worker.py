"""What a worker of Ray Train does: it finds its rank, device and threads, and trains. The driver does not import this."""

from typing import Any

import ray.train

from raystage.config import ConfigError
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.assignment import Assignment
from raystage.runtime.controller_actor import ActorController, Worker, join, signs_of_life
from raystage.runtime.group import Group
from raystage.runtime.worker import cache_of, run_rank, settle
from raystage.training.ports import Ask, Ending


def run_worker(assignment: Assignment, group: Group, controller: Any) -> Ending:
    """Trains as the rank that this process is. `controller`: the actor. Raises ConfigError for a device that is not there."""
    runtime, context, ranks = assignment.config.runtime, ray.train.get_context(), Ranks.of_process()
    join(controller, ranks.rank, Worker.here())
    try:
        device = pick_device(group.hardware.device, context.get_local_rank(), cache_of(runtime))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    threads = settle(device, runtime, context.get_local_rank(), context.get_local_world_size())
    handle: list[ActorController] = []

    def remote(attempt: int) -> ActorController:
        handle.append(ActorController(controller, attempt, runtime.decision_timeout_s))
        return handle[0]

    def asked(step: int, position: int) -> Ask | None:
        return handle[0].asked(step, position)

    return run_rank(assignment, device, ranks, threads, remote, asked, group.wanted, signs_of_life(controller, ranks.rank))
