"""Checkpoints measured beside training: a task of Ray, one at a time, where the cluster has room for it. Training knows nothing of it."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from raystage.config import Config, ConfigError
from raystage.runtime.assignment import Assignment
from raystage.runtime.evaluate import Request, Tree, evaluate
from raystage.runtime.evaluation_record import keep, summary_line
from raystage.training.checkpoint import CheckpointStore

_HELD = "measuring"  # a sibling of checkpoints/, so that the run is found from there
_LOOK_EVERY_S = 2.0
_ROOM_S = 60.0  # workers that have ended give their resources back within seconds

Say = Callable[[str], None]


class Evaluations:
    """From `watching` on a thread measures the newest checkpoint whenever the one before is done; those in between are passed over."""

    def __init__(self, assignment: Assignment, device: str, say: Say) -> None:
        self._config, self._run_dir, self._say = assignment.config, assignment.run_dir, say
        self._on_gpu = device == "cuda"
        self._begun = _newest(self._run_dir)  # what an earlier attempt has left is not measured again
        self._task: Any = None
        self._stopping = threading.Event()
        self._lock, self._is_paused = threading.Lock(), True  # until the first workers have begun
        self._thread = threading.Thread(target=self._watch, name="evaluations", daemon=True)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around the training. What is under way at the end goes on; `measure_last` waits for it, `close` ends it."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def measure_last(self, stop_asked: Callable[[], bool]) -> None:
        """Once training is done: waits for what is under way, then for the last checkpoint, for which there is room now."""
        self._take_when_done(stop_asked)
        deadline_s = time.monotonic() + _ROOM_S
        while not (has_begun := self._begin_newest()) and time.monotonic() < deadline_s and not stop_asked():
            time.sleep(_LOOK_EVERY_S)
        self._take_when_done(stop_asked)
        if not has_begun or stop_asked():
            self._say(f"the last checkpoint was not evaluated; 'raystage evaluate {self._run_dir}' does it")

    def _take_when_done(self, stop_asked: Callable[[], bool]) -> None:
        while self._task is not None and not stop_asked():
            self._take(wait_s=0.5)

    def pause(self) -> None:
        """Ends what is under way and begins nothing: the next group of workers may need its place. Its checkpoint is passed over."""
        with self._lock:
            self._is_paused = True
            self._cancel()

    def go_on(self) -> None:
        """The workers have theirs."""
        self._is_paused = False

    def close(self) -> None:
        """Ends what is under way."""
        self._cancel()
        self._let_go()

    def _cancel(self) -> None:
        if self._task is not None:
            ray.cancel(self._task, force=True)
            self._task = None

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            self._take(wait_s=0)
            with self._lock:
                if not self._is_paused and self._task is None:
                    self._begin_newest()

    def _begin_newest(self) -> bool:
        """Whether the newest checkpoint is measured, or being measured: false where the cluster has no room for it."""
        newest = _newest(self._run_dir)
        if newest in (None, self._begun):
            return True
        need = {"GPU": 1.0} if self._on_gpu else {"CPU": 1.0}
        if any(ray.available_resources().get(resource, 0.0) < amount for resource, amount in need.items()):
            return False
        try:
            held = self._hold(newest)
        except OSError:  # retired while it was linked, or a disk that is full: there will be another
            return False
        task = ray.remote(num_cpus=need.get("CPU", 0), num_gpus=need.get("GPU", 0), max_retries=0)(_measure)
        self._task, self._begun = task.remote(str(held), request_of(self._config, self._on_gpu)), newest
        return True

    def _hold(self, name: str) -> Path:
        """The checkpoint once more by links: training retires it when it likes, and a task may take long to begin."""
        held = self._run_dir / _HELD / name
        self._let_go()
        shutil.copytree(self._run_dir / "checkpoints" / name, held, copy_function=_link)
        return held

    def _let_go(self) -> None:
        shutil.rmtree(self._run_dir / _HELD, ignore_errors=True)

    def _take(self, wait_s: float) -> None:
        """Keeps the results of what is done, if it is; MLflow may take its time, and holds up no group meanwhile."""
        with self._lock:
            if self._task is None or not ray.wait([self._task], timeout=wait_s)[0]:
                return
            task, self._task = self._task, None
        try:
            tree: Tree = ray.get(task)
            self._say(f"evaluation of {tree['model']['checkpoint']}: {summary_line(tree)}")
            tracking = self._config.tracking if self._config.tracking.mlflow else None
            _, trouble = keep(tree, self._run_dir, tracking)
            if trouble:
                self._say(f"MLflow: evaluation not logged now ({trouble}); it is sent at the end")
        except (RayError, ConfigError, OSError) as error:
            self._say(f"evaluation of {self._begun} failed, training goes on: {str(error).strip().splitlines()[-1]}")


def request_of(config: Config, on_gpu: bool) -> Request:
    """What is asked of every checkpoint."""
    wanted = config.evaluation
    return Request(
        texts=tuple(Path(text).expanduser().absolute() for text in wanted.texts),
        lambada=Path(wanted.lambada).expanduser().absolute() if wanted.lambada else None,
        validation=wanted.validation,
        stride_tokens=wanted.stride_tokens,
        batch_tokens=wanted.batch_tokens,
        device="cuda" if on_gpu else "cpu",
    )


def _measure(checkpoint: str, request: Request) -> Tree:
    """Runs in a task of Ray."""
    torch.set_num_threads(1)
    return evaluate(checkpoint, None, request)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _newest(run_dir: Path) -> str | None:
    stored = CheckpointStore(run_dir).all()
    return stored[-1].folder.name if stored else None
