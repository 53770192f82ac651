"""Whole training loops that take turns in one process, some steps each, so that a busy machine slows all of them alike."""

import threading
import time
from collections.abc import Callable

import torch

Pause = Callable[[], None]


class EndOfBench(BaseException):
    """Ends a loop at its next pause."""


class Arm:
    """A loop in a thread of its own. It calls `pause` after every block of its steps and goes on when its turn comes."""

    def __init__(self, name: str, train: Callable[[Pause], None], n_threads: int) -> None:
        self.name = name
        self._train, self._n_threads = train, n_threads
        self._mine, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._ends = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def block(self) -> float:
        """Seconds of the next block."""
        begin_s = time.perf_counter()
        self._mine.release()
        self._back.acquire()
        if self._error is not None:
            raise RuntimeError(f"{self.name} has ended") from self._error
        return time.perf_counter() - begin_s

    def end(self) -> None:
        self._ends = True
        self._mine.release()
        self._thread.join()

    def _pause(self) -> None:
        self._back.release()
        self._mine.acquire()
        if self._ends:
            raise EndOfBench

    def _run(self) -> None:
        self._mine.acquire()
        torch.set_num_threads(self._n_threads)  # each thread has its own setting
        try:
            if not self._ends:
                self._train(self._pause)
            self._error = RuntimeError("it came to its end")
        except EndOfBench:
            return
        except BaseException as error:
            self._error = error
        self._back.release()
