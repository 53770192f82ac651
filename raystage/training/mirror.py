"""Everything that a run writes, copied elsewhere from a thread of rank 0: training never waits for the store."""

import threading
import types
from collections.abc import Callable
from pathlib import Path

from raystage.config.schema import Checkpoint
from raystage.storage.patience import Patience
from raystage.training.checkpoint import MANIFEST_FILE, CheckpointStore
from raystage.training.remote_checkpoints import RemoteCheckpoints

KEEP_UNSENT = 3  # checkpoints that retention leaves here because they are not there yet; more would fill the disk
_PERIOD_S = 20.0  # between copies of the records where no checkpoint is written


class Mirror:
    """A context around training; it leaves when all is copied. `send_records`: copies what grows beside checkpoints;
    `is_ours`: whether no later attempt has taken over there, without which nothing is sent."""

    def __init__(
        self,
        store: CheckpointStore,
        elsewhere: RemoteCheckpoints,
        settings: Checkpoint,
        patience: Patience,
        send_records: Callable[[], None],
        is_ours: Callable[[], bool],
    ) -> None:
        self._store, self._elsewhere, self._settings, self._patience = store, elsewhere, settings, patience
        self._send_records, self._is_ours = send_records, is_ours
        self._versions: dict[str, int] = {}  # how often a checkpoint of this name was written, and of those sent
        self._sent: dict[str, int] = {}
        self._sending: str | None = None
        self._wake, self._leaving = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self.is_fenced = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    @property
    def has_given_up(self) -> bool:
        """Whether the user's limit is over; leaving the context then raises the error."""
        return self._error is not None

    def saved(self, folder: Path) -> None:
        """A checkpoint is whole here."""
        self._versions[folder.name] = self._versions.get(folder.name, 0) + 1
        self._wake.set()

    def unsent(self) -> set[str]:
        """Names of the checkpoints that retention should leave here: the latest that are not there yet."""
        waiting = [folder.name for folder in self._waiting()]
        return {*waiting[:KEEP_UNSENT], *([self._sending] if self._sending else [])}

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        if self.is_fenced or kind is KeyboardInterrupt:
            self._patience.end()
        self._leaving.set()
        self._wake.set()
        self._thread.join()
        if self._error is not None:
            if error is None:
                raise self._error
            error.add_note(f"and the copy in the run's storage is not complete: {self._error}")

    def _work(self) -> None:
        try:
            self._begin()
            while not self.is_fenced:
                leaving = self._leaving.is_set()
                self._send()
                if leaving:
                    return
                self._wake.wait(_PERIOD_S)
                self._wake.clear()
        except Exception as error:  # it is raised again where the context ends
            self._error = error

    def _begin(self) -> None:
        there = self._elsewhere.whole_names()
        for folder in self._store.folders():
            if folder.name in there and folder.name not in self._versions:
                self._sent[folder.name] = 0
        self._elsewhere.clear_cut_short()

    def _send(self) -> None:
        """Records first, so that no checkpoint there is newer than they are; the latest checkpoint before those that wait longer."""
        if not self._is_ours():
            self.is_fenced = True
            return
        waiting = self._waiting()
        self._send_records()
        for folder in waiting:
            self._send_checkpoint(folder)
        if waiting:
            self._elsewhere.retire(self._settings.keep_last, self._settings.keep_best)

    def _send_checkpoint(self, folder: Path) -> None:
        version = self._versions.get(folder.name, 0)
        self._sending = folder.name
        try:
            self._elsewhere.send(folder)
        except FileNotFoundError:
            return  # retired, or written anew, meanwhile
        finally:
            self._sending = None
        self._sent[folder.name] = version

    def _waiting(self) -> list[Path]:
        """Whole here and not there as they are now, the newest first."""
        return [
            folder
            for folder in reversed(self._store.folders())
            if self._sent.get(folder.name) != self._versions.get(folder.name, 0) and (folder / MANIFEST_FILE).is_file()
        ]


class NoMirror:
    """Of a run whose storage is a folder: it is there as soon as it is here."""

    has_given_up = is_fenced = False

    def saved(self, folder: Path) -> None:
        """Nothing to do."""

    def unsent(self) -> set[str]:
        """None."""
        return set()

    def __enter__(self) -> "NoMirror":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        pass


AnyMirror = Mirror | NoMirror
