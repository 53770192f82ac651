"""Where a rank's run begins and what it leaves: the run folder here, and its copy elsewhere where storage is a URI."""

import time
from pathlib import Path

from raystage.config import Config
from raystage.data.progress import Progress, no_progress
from raystage.devices.ranks import Ranks
from raystage.runtime.remote_run import RemoteRun
from raystage.runtime.run_folder import RunFolder
from raystage.runtime.trouble_log import TroubleLog
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience
from raystage.training.checkpoint import CheckpointStore, Stored, damaged_files
from raystage.training.errors import CheckpointError
from raystage.training.mirror import AnyMirror, Mirror, NoMirror
from raystage.training.remote_checkpoints import bring_newest

_LOOK_EVERY_S = 2.0  # for a checkpoint that rank 0's mirror sends
_NONE, _FAILED = (-1, -1, -1), (-2, -2, -2)


class RunStorage:
    """One rank's side. `log`: trouble with storage, said in the run's records once they are open. `progress`: hears of what is brought."""

    def __init__(self, config: Config, run_dir: Path, progress: Progress = no_progress) -> None:
        self.folder, self._config, self.log, self._progress = RunFolder(run_dir), config, TroubleLog(), progress
        self.patience = Patience(60 * config.checkpoint.storage_retry_minutes, self.log)
        self._elsewhere = RemoteRun.of(config, self.folder, self.patience, progress)
        self.store = CheckpointStore(run_dir, self.bring)

    def bring(self, key: tuple[int, ...]) -> None:
        """Gets a checkpoint that is elsewhere alone. What rank 0 has chosen may be on its way there still, and is waited for."""
        if self._elsewhere is None or any(stored.manifest.key == key and not damaged_files(stored) for stored in self.store.all()):
            return
        deadline_s = time.monotonic() + self.patience.limit_s
        while not self._elsewhere.bring(key) and time.monotonic() < deadline_s:
            self._progress(f"wait for checkpoint {key[0]}", 0, None)
            time.sleep(_LOOK_EVERY_S)

    def begin(self, ranks: Ranks) -> tuple[int, Stored | None]:
        """The number of this attempt and the newest good checkpoint, the same on every rank.

        Raises StorageError or CheckpointError on all of them alike.
        """
        attempt, found, error = 0, None, None
        if ranks.is_first:
            try:
                attempt, found = self._begin_here()
            except (StorageError, CheckpointError) as late:
                error = late
        key = _FAILED if error else (found.manifest.key if found else _NONE)
        attempt, *wanted = ranks.from_first([attempt, *key])
        if error is not None:
            raise error
        if tuple(wanted) == _FAILED:
            raise StorageError("rank 0 cannot begin: it says why")
        if not ranks.is_first and tuple(wanted) != _NONE:
            found = self.store.with_key(tuple(wanted))
        return attempt, found

    def mirror(self) -> AnyMirror:
        """What copies the run elsewhere while it trains, on rank 0."""
        if self._elsewhere is None:
            return NoMirror()
        there = self._elsewhere
        return Mirror(self.store, there.checkpoints, self._config.checkpoint, self.patience, there.push_records, there.is_ours)

    def _begin_here(self) -> tuple[int, Stored | None]:
        if self._elsewhere is None:
            attempt = self.folder.next_attempt()
        else:
            self._elsewhere.take_up()
            attempt = self._elsewhere.next_attempt()
            bring_newest(self.store, self._elsewhere.checkpoints, self.log.note)
        resume = self.store.latest_good()
        self.store.begin_after(resume)
        if self._elsewhere is not None and resume is not None:
            newer = [stored.folder.name for stored in self._elsewhere.checkpoints.all() if stored.manifest.key > resume.manifest.key]
            self._elsewhere.checkpoints.set_aside(newer)
        return attempt, resume
