"""Runs what a study needs, some runs side by side, each in a process of its own; what has ended is not run again."""

import contextlib
import dataclasses
import os
import signal
import subprocess  # nosec B404  # this package's own module, no shell
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from raystage.config import ConfigError, dump
from raystage.config.study import Study
from raystage.devices.cores import n_cores
from raystage.studies.identity import digest_in
from raystage.studies.one_run import ENDED, STOPPED
from raystage.studies.runs import StudyRun, budget_of, due_runs, foreseen_runs
from raystage.studies.study_folder import RUN_FILE, StudyFolder

_POLL_S = 0.2
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class _Running:
    run: StudyRun
    slot: int
    process: "subprocess.Popen[bytes]"


def run_study(study: Study, say: Say) -> bool:
    """Runs what is missing. False where runs are left: it was stopped (Ctrl-C), with their checkpoints, or something was in the way of one.

    Raises ConfigError before a run starts.
    """
    _check_texts(study)
    folder = StudyFolder(study)
    folder.path.mkdir(parents=True, exist_ok=True)
    pool = _Pool(folder, say)
    with _asked_to_stop() as asked:
        while True:
            if asked.is_set():
                pool.stop()
            else:
                pool.start_due()
            if not pool.running:
                return not (asked.is_set() or pool.left)
            time.sleep(_POLL_S)
            pool.take_ended()


class _Pool:
    """`left`: runs that ended by what was not their own doing, which the next call tries again."""

    def __init__(self, folder: StudyFolder, say: Say) -> None:
        self._folder, self._study, self._say = folder, folder.study, say
        self._losses = folder.losses()
        self._foreseen, self._done_before, self._begin_s = foreseen_runs(self._study), self._work(self._losses), time.monotonic()
        self._slots = set(range(slots_of(self._study)))
        self._is_stopping = False
        self.running: list[_Running] = []
        self.left: set[StudyRun] = set()
        if self._losses:
            say(f"going on with study {self._study.name!r}: {len(self._losses)} runs have ended")

    def start_due(self) -> None:
        for slot in sorted(self._slots - {each.slot for each in self.running}):
            if (run := self._next()) is not None:
                self.running.append(self._start(run, slot))

    def _next(self) -> StudyRun | None:
        """One that is due, and neither under way nor the same as one that is."""
        under_way = {self._digest(each.run) for each in self.running}
        due = (run for run in due_runs(self._study, self._losses) if run not in self.left)
        return next((run for run in due if self._digest(run) not in under_way), None)

    def _digest(self, run: StudyRun) -> str:
        return digest_in(self._folder.own(run).name)

    def stop(self) -> None:
        """Asks each run once for a checkpoint and its end: a second signal would end it without."""
        if not self._is_stopping:
            self._is_stopping = True
            for each in self.running:
                each.process.send_signal(signal.SIGINT)

    def take_ended(self) -> None:
        for each in [each for each in self.running if each.process.poll() is not None]:
            self.running.remove(each)
            code, run = each.process.returncode, each.run
            if code == ENDED:
                self._losses = self._folder.losses(self._losses)  # of what is due now, too: it may have been trained elsewhere
            else:
                self.left.add(run)
            self._say(f"{run}: {self._how(run, code)}")

    def _how(self, run: StudyRun, code: int) -> str:
        """How a run ended, in words."""
        if code == STOPPED:
            return "stopped with a checkpoint"
        if code != ENDED:
            return f"ended with code {code}: {self._folder.last_words(run)}; the same command tries it again"
        loss = self._losses[run]
        how = f"diverged: {self._folder.last_words(run)}" if loss is None else f"{loss:.4f}"
        done = self._work(self._losses)
        hours = (time.monotonic() - self._begin_s) / 3600 * (self._work(self._foreseen) - done) / (done - self._done_before)
        return f"{how}; {len(self._losses)} runs of {len(self._foreseen)}, {hours:.1f} hours left at this pace"

    def _work(self, runs: Iterable[StudyRun]) -> float:
        """In percent of the base's budget."""
        return sum(run.share * budget_of(self._study.arm(run.arm))[0] for run in runs)

    def _start(self, run: StudyRun, slot: int) -> _Running:
        folder, study = self._folder, self._study
        for path in (folder.own(run), folder.log_of(run).parent):
            path.mkdir(parents=True, exist_ok=True)
        config = folder.own(run) / RUN_FILE
        config.write_text(dump(folder.config_of(run)))
        environment = os.environ | {"OMP_NUM_THREADS": str(_threads(study))}
        gpus = _gpus(study)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        with folder.log_of(run).open("a") as log:
            command = [sys.executable, "-m", "raystage.studies.one_run", str(config), str(os.getpid()), folder.wanted]
            # a session of its own: Ctrl-C in the terminal is passed on once, by `stop`
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)  # nosec B603
        return _Running(run, slot, process)


def slots_of(study: Study) -> int:
    """How many runs go side by side."""
    if study.keys.at_once is not None:
        return study.keys.at_once
    return len(_gpus(study)) or max(1, n_cores() // _threads(study))


def _gpus(study: Study) -> list[str]:
    """The GPUs of this process by the names that CUDA_VISIBLE_DEVICES takes; none where runs are for CPUs."""
    import torch

    wanted = study.base.runtime.device
    if wanted not in ("cuda", "auto") or not torch.cuda.is_available():
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def _threads(study: Study) -> int:
    return study.base.runtime.threads_per_worker or 1


def _check_texts(study: Study) -> None:
    wanted = study.keys.zeroshot
    for name in (*wanted.texts, *([wanted.lambada] if wanted.lambada else [])):
        if not Path(name).is_file():
            raise ConfigError(f"zeroshot: {name} is no file; name texts that are there, or none: zeroshot={{}}")


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; a second one ends this process as ever, and the runs follow it."""
    asked = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def ask(number: int, frame: types.FrameType | None) -> None:
        asked.set()
        for each in numbers:
            signal.signal(each, before[each])

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number in numbers:
            signal.signal(number, before[number])
