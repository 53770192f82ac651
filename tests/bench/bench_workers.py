"""The 14M model under Ray Train against the same loop in a plain process, and with two workers against one of as many threads.

The runs are whole (`raystage train`); their workers are stopped and continued in turn, so that a busy machine slows all of them alike.
"""

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil

from raystage.config import Config
from raystage.tracking.records import METRICS_FILE, parse_line
from tests.bench.endless_run import endless
from tests.bench.peer_size import PeerSize, small
from tests.bench.result import Result
from tests.bench.running import TRAIN, ray_workers, running
from tests.training.made_run import assign

N_CORES = os.cpu_count() or 1
TURNS, STEPS, MOST_S = 7, 4, 300.0
_RUNS = {
    "plain": ["runtime.engine=local", f"runtime.threads_per_worker={N_CORES}"],
    "ray": ["runtime.engine=ray", "runtime.workers=1", f"runtime.threads_per_worker={N_CORES}"],
    "ray, two workers": ["runtime.engine=ray", "runtime.workers=2", f"runtime.threads_per_worker={max(1, N_CORES // 2)}"],
}


def run() -> Iterator[Result]:
    """Two lines."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs = [_Run(Path(folder), name, stack) for name in _RUNS]
        rates = [[each.turn() for each in runs] for _ in range(TURNS)]
    plain, ray, two = zip(*rates, strict=True)
    names = ("tokens/s, Ray Train, 1 worker", f"tokens/s, 2 workers x {N_CORES // 2} threads")
    for name, against, ours, theirs, target in (
        (names[0], "the same in a plain process", ray, plain, ">= 0.98"),
        (names[1], f"1 worker x {N_CORES} threads", two, ray, ">= 0.90"),
    ):
        ratios = tuple(a / b for a, b in zip(ours, theirs, strict=True))
        yield Result(
            name, against, "x", ratios, target, f"{statistics.median(ours):,.0f} against {statistics.median(theirs):,.0f} tokens/s"
        )


def _config(folder: Path, name: str, size: PeerSize) -> Config:
    """With a check every step: a step is recorded at once. Nobody minds that it stands still."""
    patient = ["runtime.spare_after_s=null", "runtime.stall_minutes=60", "runtime.decision_timeout_s=600"]
    return endless(folder, name.replace(", ", "-").replace(" ", "-"), size, 1, *patient, *_RUNS[name])


class _Run:
    """A run that stands still but in its turns."""

    def __init__(self, folder: Path, name: str, stack: contextlib.ExitStack) -> None:
        size = small(256)
        config, self._tokens = _config(folder, name, size), size.tokens_a_step
        self._metrics = assign(config).run_dir / METRICS_FILE
        self._process = stack.enter_context(running(folder, config, [sys.executable, *TRAIN]))
        self._log = folder / f"{config.name}.log"
        self._wait(0, 3)
        self._workers = [self._process] if name == "plain" else ray_workers(self._process)
        assert self._workers, "no process is called a worker of Ray Train"
        self._signal(signal.SIGSTOP)

    def turn(self) -> float:
        """Tokens a second of the median step that began and ended in this turn."""
        before = self._metrics.stat().st_size
        self._signal(signal.SIGCONT)
        self._wait(before, STEPS + 2)  # the first one began in the turn before, and another one's time is its begin
        self._signal(signal.SIGSTOP)
        seconds = [b - a for a, b in pairwise(self._times_s(before)[1:])]
        return self._tokens / statistics.median(seconds)

    def _wait(self, from_byte: int, n_steps: int) -> None:
        until_s = time.monotonic() + MOST_S
        while len(self._times_s(from_byte)) < n_steps:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until_s, f"no {n_steps} steps in {MOST_S:.0f} s; {self._log.read_text()}"
            time.sleep(0.1)

    def _signal(self, number: int) -> None:
        for worker in self._workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(number)

    def _times_s(self, from_byte: int) -> list[float]:
        if not self._metrics.exists():
            return []
        with self._metrics.open("rb") as file:
            file.seek(from_byte)
            records = [parse_line(line) or {} for line in file.read().split(b"\n")[:-1]]
        return [record["time_s"] for record in records if record.get("kind") == "train"]


def main() -> None:
    """Prints the table."""
    for result in run():
        print(result.line(), flush=True)


if __name__ == "__main__":
    main()
