"""The driver's side of a run whose storage is a URI: it takes the run up from there and leaves there what it makes.

Where storage is a path every call does nothing.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from raystage.config import Config, ConfigError
from raystage.config.duration import parse_duration
from raystage.data.progress import Progress
from raystage.runtime.remote_run import OF_DRIVER, RemoteRun
from raystage.runtime.run_folder import RunFolder
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience
from raystage.tracking.mlflow_mark import MARK_FILE
from raystage.tracking.records import DECISIONS_FILE, METRICS_FILE
from raystage.training.checkpoint import CheckpointStore
from raystage.training.errors import CheckpointError
from raystage.training.remote_checkpoints import bring_newest

_POLL_S = 10.0


class DriverStorage:
    def __init__(self, config: Config, folder: RunFolder, patience: Patience, say: Callable[[str], None], progress: Progress) -> None:
        self._config, self._folder, self._say = config, folder, say
        self._run = RemoteRun.of(config, folder, patience, progress)
        if self._run is not None and config.storage.startswith("memory://") and config.runtime.engine == "ray":
            raise ConfigError(f"storage={config.storage}: memory is of one process alone; use runtime.engine=local, or another storage")

    def check_writable(self) -> None:
        """Raises ConfigError where storage cannot be written."""
        if self._run is not None:
            self._run.remote.check_writable("storage", ".writable")

    def take_up(self) -> None:
        """The run's records as the latest attempt left them, wherever that was."""
        if self._run is not None:
            self._run.take_up()

    def last_attempt(self) -> int:
        """The number of the run's latest attempt, here or elsewhere; 0 before the first."""
        return max(self._folder.attempt(), self._run.claimed() if self._run is not None else 0)

    def corpus_digest(self) -> str | None:
        """Of the corpus that the run has been trained on; None before its first checkpoint."""
        known = CheckpointStore(self._folder.path).all() or (self._run.checkpoints.all() if self._run is not None else [])
        return known[-1].manifest.corpus_digest if known else None

    def is_finished(self) -> bool:
        """Whether the newest checkpoint there is at the run's end; if so it is brought here."""
        whole = self._run.checkpoints.all() if self._run is not None else []
        done = bool(whole) and whole[-1].manifest.is_end_of(parse_duration(self._config.training.duration))
        if done:
            self.bring_newest()
        return done and CheckpointStore(self._folder.path).latest_good(lambda manifest: manifest.key == whole[-1].manifest.key) is not None

    def bring_where_it_trains(self) -> None:
        """The newest good checkpoint, where ranks train on this machine for sure: they find it here, and the terminal shows its coming.

        Elsewhere rank 0 gets it, out of sight; it also says what cannot be used.
        """
        is_here = self._config.runtime.engine == "local" or not (self._config.runtime.address or "RAY_ADDRESS" in os.environ)
        if self._run is not None and is_here:
            with contextlib.suppress(CheckpointError):
                bring_newest(CheckpointStore(self._folder.path), self._run.checkpoints, lambda line: None)

    def bring_newest(self) -> None:
        """The newest good checkpoint, which may have been written on another machine. Raises ConfigError where none is usable."""
        if self._run is None:
            return
        try:
            bring_newest(CheckpointStore(self._folder.path), self._run.checkpoints, self._say)
        except CheckpointError as error:
            raise ConfigError(str(error)) from None

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Meanwhile the records of a rank 0 on another machine are copied here, where the terminal and MLflow read them."""
        if self._run is None:
            yield
            return
        follower = _RecordsFollower(self._config, self._folder)
        follower.start()
        try:
            yield
        finally:
            follower.stop()

    def push_configuration(self) -> None:
        """The files that the driver writes before training."""
        if self._run is not None:
            self._run.push(OF_DRIVER)

    def push_products(self, failed: bool) -> None:
        """The files that the driver writes, and what it makes of a finished run. After a failed one each is tried once: storage may
        be why it failed."""
        if self._run is None:
            return
        if failed:
            self._run.remote.patience.end()
        try:
            self._run.push(OF_DRIVER)
            for name in ("report", "model", "evaluations"):
                self._run.push_folder(name)
        except StorageError:
            if not failed:
                raise


class _RecordsFollower(threading.Thread):
    """Every few seconds: the records of a rank 0 elsewhere to here, the mark of what MLflow has to there.

    A store that is away is asked again later.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        super().__init__(name="follow-storage", daemon=True)
        run = RemoteRun.of(config, folder, Patience(0.0))
        assert run is not None
        self._run, self._stopping = run, threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(_POLL_S):
            self._copy()

    def stop(self) -> None:
        """After a last look."""
        self._stopping.set()
        self.join()
        self._copy()

    def _copy(self) -> None:
        with contextlib.suppress(StorageError):
            if not self._run.works_here():
                self._run.fetch((METRICS_FILE, DECISIONS_FILE))
            self._run.push((MARK_FILE,))  # what MLflow has: another driver would send it again
