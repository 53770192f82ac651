"""Whole training loops that take turns, some steps each, so that a busy machine slows all of them alike."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

Pause = Callable[[], None]


class Arm:
    """A loop in a process of its own. It calls `pause` after every block of its steps and goes on when its turn comes."""

    def __init__(self, name: str, train: Callable[[Pause], None], n_threads: int) -> None:
        self.name = name
        fresh = multiprocessing.get_context("spawn")
        self._end, other_end = fresh.Pipe()
        self._process = fresh.Process(target=_run, args=(train, n_threads, other_end), daemon=True)
        self._process.start()
        other_end.close()

    def block(self) -> float:
        """Seconds of the next block. Raises RuntimeError for a loop that has ended."""
        begin_s = time.perf_counter()
        try:
            self._end.send("go on")
            self._end.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"{self.name} has ended; what it said is above") from None
        return time.perf_counter() - begin_s

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _run(train: Callable[[Pause], None], n_threads: int, turns: Connection) -> None:
    torch.set_num_threads(n_threads)

    def pause() -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        turns.send("done")
        turns.recv()

    turns.recv()
    train(pause)
