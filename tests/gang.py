"""Ranks in processes of their own, joined by gloo and kept for many calls."""

import contextlib
import multiprocessing as mp
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raystage.devices.ranks import Ranks

_PATIENCE_S = 120.0


def processes() -> mp.context.ForkServerContext:
    """Processes that begin with everything imported, which takes longer than most of what they do."""
    context = mp.get_context("forkserver")
    modeling = [f"transformers.models.{family}.modeling_{family}" for family in ("gpt2", "llama", "qwen3")]
    context.set_forkserver_preload(["torch.distributed.fsdp", *modeling, __name__, "tests.training.made_run"])
    return context


class GangError(AssertionError):
    """What the ranks raised, or that they hang."""


class Gang:
    """`world_size` ranks that all run what they are told, in the same order."""

    def __init__(self, world_size: int, folder: Path) -> None:
        context = processes()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world_size, folder / f"rendezvous-{world_size}", theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """`function(ranks, *args)` on every rank; the results by rank. Raises GangError with all that went wrong."""
        for pipe in self._pipes:
            pipe.send((function, args))
        answers = [pipe.recv() if pipe.poll(_PATIENCE_S) else ("hangs", None) for pipe in self._pipes]
        if failed := [f"rank {rank}: {words}" for rank, (words, _) in enumerate(answers) if words]:
            raise GangError("\n".join(failed))
        return [answer for _, answer in answers]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


@contextlib.contextmanager
def gang_of(world_size: int, folder: Path) -> Iterator[Gang]:
    gang = Gang(world_size, folder)
    try:
        yield gang
    finally:
        gang.close()


def _serve(rank: int, world_size: int, rendezvous: Path, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    ranks = Ranks.of_process()
    while True:
        function, args = pipe.recv()
        try:
            pipe.send(("", function(ranks, *args)))
        except Exception:  # the test's process shows it
            pipe.send((traceback.format_exc(), None))
