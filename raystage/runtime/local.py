"""The engine without Ray: this process alone, or one rank of torchrun."""

import os
import signal
import threading
from collections.abc import Callable

import torch
import torch.distributed as dist

from raystage.config.schema import Runtime
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.assignment import Assignment
from raystage.runtime.engine import EngineError
from raystage.runtime.worker import cache_of, run_rank, settle
from raystage.storage.faults import StorageError
from raystage.training.errors import CheckpointError, FencedError, RehearsalError, TrainingError
from raystage.training.ports import Ask


def torchrun_rank() -> int | None:
    """The rank that torchrun gave this process; None in a plain one."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


class LocalEngine:
    def __init__(self, runtime: Runtime) -> None:
        self._stop = threading.Event()
        self._handed_out = False
        self._local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self._device = pick_device(runtime.device, local_rank, cache_of(runtime))
        if self._device.backend == "nccl" and self._local_world_size > torch.cuda.device_count():
            raise ValueError(
                f"torchrun --nproc-per-node {self._local_world_size}: this machine has {torch.cuda.device_count()} GPUs, a rank needs one; "
                "start as many ranks, or use runtime.device=cpu"
            )
        self._threads = settle(self._device, runtime, local_rank, self._local_world_size)
        if torchrun_rank() is not None and not dist.is_initialized():
            dist.init_process_group(self._device.backend)
        self.ranks = Ranks.of_process()

    def train(self, assignment: Assignment, say: Callable[[str], None]) -> bool:
        self._share(assignment)
        return self._run(assignment)

    def follow(self) -> None:
        """Trains as one of torchrun's other ranks, on the assignment that rank 0 hands out, if it does.

        A stop is rank 0's to decide: torchrun passes the signal on to all.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        assignment = self._share(None)
        if assignment is not None:
            self._run(assignment)

    def dismiss(self) -> None:
        """Lets the other ranks go when there was nothing to hand out: a complete run, or a mistake found before."""
        if not self._handed_out:
            self._share(None)

    def _share(self, assignment: Assignment | None) -> Assignment | None:
        shared = [assignment]
        self._handed_out = True
        if self.ranks.world_size > 1:
            dist.broadcast_object_list(shared, src=0, group=self.ranks.control)
        return shared[0]

    def _run(self, assignment: Assignment) -> bool:
        try:
            return run_rank(assignment, self._device, self.ranks, self._threads, asked=self._asked) == "finished"
        except (TrainingError, FencedError, CheckpointError, RehearsalError, StorageError) as error:
            raise EngineError(str(error)) from error

    def _asked(self, step: int, position: int) -> Ask | None:
        return "stop" if self._stop.is_set() else None

    def request_stop(self) -> None:
        self._stop.set()
