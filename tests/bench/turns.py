"""Whole runs of `raystage train` that stand still but in their turns, so that a busy machine slows all of them alike."""

import contextlib
import signal
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil

from raystage.tracking.records import METRICS_FILE, parse_line
from tests.bench.endless_run import endless
from tests.bench.peer_size import PeerSize
from tests.bench.running import TRAIN, running
from tests.training.made_run import assign

STEPS, MOST_S = 4, 300.0
# a check every step: a step is recorded at once. Nobody minds that it stands still.
_PATIENT = ("runtime.spare_after_s=null", "runtime.stall_minutes=60", "runtime.decision_timeout_s=600")


class RunInTurns:
    """A run of `size` with these overrides, stopped with all of its processes, Ray's own too: they would take of the others' turns what
    they take of its own. All ends with `stack`."""

    def __init__(self, folder: Path, name: str, size: PeerSize, overrides: list[str], stack: contextlib.ExitStack) -> None:
        config = endless(folder, name, size, 1, *_PATIENT, *overrides)
        self._tokens = size.tokens_a_step
        self._metrics = assign(config).run_dir / METRICS_FILE
        self._process = stack.enter_context(running(folder, config, [sys.executable, *TRAIN]))
        self._log = folder / f"{config.name}.log"
        self._wait(0, 3)
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
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _times_s(self, from_byte: int) -> list[float]:
        if not self._metrics.exists():
            return []
        with self._metrics.open("rb") as file:
            file.seek(from_byte)
            records = [parse_line(line) or {} for line in file.read().split(b"\n")[:-1]]
        return [record["time_s"] for record in records if record.get("kind") == "train"]
