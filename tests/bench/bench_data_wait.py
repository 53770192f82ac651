"""How long the training loop waits for its batches, as a share of its steps: cut, rows, tensors, the way to the device.
Whole runs in this process, of which both are timed.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from raystage.data.batch import Batch
from raystage.data.reader import Reader
from raystage.devices.cores import n_cores
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.worker import run_rank
from raystage.training.loop import Loop
from tests.bench.endless_run import endless
from tests.bench.peer_size import PeerSize, on_gpu, small
from tests.bench.result import Result
from tests.training.made_run import assign

N_BLOCKS = 5
QUICKSTART = (
    PeerSize("quickstart's first stage", 512, 1, 1, 32, 32, 64),
    PeerSize("quickstart's last stage", 512, 2, 2, 64, 128, 16),
)


def run() -> Iterator[Result]:
    """A line a size."""
    return _measure([*((size, 100) for size in QUICKSTART), (small(256), 4)])


def run_on_gpu() -> Iterator[Result]:
    """The same by one: small steps are its hardest, since they leave the least time to read ahead."""
    return _measure([*((dataclasses.replace(size, device="cuda"), 100) for size in QUICKSTART), (on_gpu()[0], 10)])


def _measure(sizes: Iterable[tuple[PeerSize, int]]) -> Iterator[Result]:
    """With each size go the steps of a block."""
    for size, block_steps in sizes:
        with tempfile.TemporaryDirectory() as folder:
            waits, steps = _train(size, Path(folder), (N_BLOCKS + 1) * block_steps + 1)  # the last one only ends the one before
        blocks = [slice(i * block_steps, (i + 1) * block_steps) for i in range(1, N_BLOCKS + 1)]  # the first one warms up
        shares = tuple(100 * sum(waits[block]) / sum(steps[block]) for block in blocks)
        said = f"{1e6 * sum(waits) / len(steps):.0f} us of {1e3 * sum(steps) / len(steps):.1f} ms"
        yield Result(f"waiting for data, {size.name}", "a step", "%", shares, "<= 1.00", said)


def _train(size: PeerSize, folder: Path, n_steps: int) -> tuple[list[float], list[float]]:
    """Seconds of waiting, and from one step to the next, where a device that works by itself is waited for: step by step."""
    waits, steps = _Timed(Reader.read), _Timed(Loop._train_one_step)
    places, config = _Timed(Batch.on), endless(folder, "wait", size, 10, f"training.duration={n_steps} steps")
    with (
        mock.patch.object(Reader, "read", waits.method()),
        mock.patch.object(Batch, "on", places.method()),
        mock.patch.object(Loop, "_train_one_step", steps.method()),
    ):
        run_rank(assign(config), pick_device(size.device), Ranks(), threads=n_cores())
    placed_s = places.seconds[:n_steps]  # one micro-batch a step; validation comes last
    return [a + b for a, b in zip(waits.seconds, placed_s, strict=True)], [b - a for a, b in itertools.pairwise(steps.begins_s)]


class _Timed:
    """A method, when it was called, and the seconds of each call."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self._inner = inner
        self.begins_s, self.seconds = list[float](), list[float]()

    def method(self) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin_s = time.perf_counter()
            self.begins_s.append(begin_s)
            try:
                return self._inner(*args, **kwargs)
            finally:
                self.seconds.append(time.perf_counter() - begin_s)

        return timed


if __name__ == "__main__":
    for result in run():
        print(result.line(), flush=True)
