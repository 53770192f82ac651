"""A run whose storage is a URI: its folder on this machine and the copy of everything at URI/name."""

import contextlib
import functools
import secrets
import shutil
import socket
import tempfile
import time
from pathlib import Path

from raystage.config import Config
from raystage.data.corpus import TOKENIZER, TOKENIZER_CONFIG
from raystage.data.progress import Meter, Progress, no_progress
from raystage.runtime.commands_file import COMMANDS_FILE, CommandsFile
from raystage.runtime.run_folder import TOKENIZER_FOLDER, RunFolder
from raystage.storage.address import is_uri
from raystage.storage.patience import Patience
from raystage.storage.remote import RemoteFolder
from raystage.tracking.mlflow_mark import MARK_FILE
from raystage.tracking.provenance import PROVENANCE_FILE
from raystage.tracking.records import DECISIONS_FILE, METRICS_FILE
from raystage.training.remote_checkpoints import RemoteCheckpoints, leave_only

CHANGES_FILE, CONFIG_FILE = "config_changes.jsonl", "config.yaml"
TOKENIZER_FILES = tuple(f"{TOKENIZER_FOLDER}/{name}" for name in (TOKENIZER, TOKENIZER_CONFIG))
OF_DRIVER = (CONFIG_FILE, CHANGES_FILE, MARK_FILE, PROVENANCE_FILE, *TOKENIZER_FILES)
OF_RANK_0 = (METRICS_FILE, DECISIONS_FILE, COMMANDS_FILE)
_ATTEMPT, _ATTEMPT_HERE, _PLACE, _ASKED = "attempt", "attempt_elsewhere", "place", "asked"


class RemoteRun:
    """`attempt` there is `<number> <token> <place>`: whose it is, and in which folder of which machine rank 0 works.

    Reading, counting up and writing it is three calls. A store without conditional writes leaves a moment in which two drivers may
    take the same number; the token that stays there tells them apart, and the other one stops at its next boundary.
    """

    def __init__(self, remote: RemoteFolder, folder: RunFolder, progress: Progress = no_progress) -> None:
        self.remote, self._folder, self._progress = remote, folder, progress
        self.checkpoints = RemoteCheckpoints(remote.below("checkpoints"), folder.path, progress)
        self._pushed: dict[Path, tuple[int, int]] = {}

    @classmethod
    def of(cls, config: Config, folder: RunFolder, patience: Patience, progress: Progress = no_progress) -> "RemoteRun | None":
        """None where storage is a path. Raises ConfigError for a URI that cannot be opened."""
        return cls.at(config.storage, folder, patience, progress) if is_uri(config.storage) else None

    @classmethod
    def at(cls, storage: str, folder: RunFolder, patience: Patience, progress: Progress = no_progress) -> "RemoteRun":
        """The run of the folder's name in a URI. `progress` hears of what is brought here."""
        return cls(RemoteFolder.open(f"{storage.rstrip('/')}/{folder.path.name}", "storage", patience), folder, progress)

    # -- attempts

    def next_attempt(self) -> int:
        """Begins an attempt, which fences off all earlier ones, here and there."""
        attempt = self._folder.next_attempt(at_least=self.claimed() + 1)
        claim = f"{attempt} {secrets.token_hex(8)} {self.place}"
        self.remote.write(_ATTEMPT, claim.encode())
        self._here().write_text(claim)
        return attempt

    def claimed(self) -> int:
        """The number of the latest attempt there; 0 before the first."""
        return int((self.remote.read(_ATTEMPT) or b"0").split()[0])

    def is_ours(self) -> bool:
        """Whether no other attempt has begun since the last one of this folder."""
        claim = self.remote.read(_ATTEMPT)
        return claim is None or claim.decode() == self._here().read_text()

    @property
    def place(self) -> str:
        """A name for this folder of this machine, made once."""
        path = self._folder.path / _PLACE
        if not path.is_file():
            self._folder.path.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{socket.gethostname()}-{secrets.token_hex(4)}")
        return path.read_text()

    def works_here(self) -> bool:
        """Whether rank 0 writes into this very folder."""
        claim = (self.remote.read(_ATTEMPT) or b"").decode().split()
        return len(claim) == 3 and claim[2] == self.place

    def _here(self) -> Path:
        return self._folder.path / _ATTEMPT_HERE

    # -- here from there

    def take_up(self) -> None:
        """Makes this folder go on from what is there, unless the latest attempt was this folder's, or none was: then it knows more."""
        claim = (self.remote.read(_ATTEMPT) or b"").decode()
        here = self._here().read_text() if self._here().is_file() else ""
        if not claim or claim == here:
            return
        self.fetch((*OF_DRIVER, *OF_RANK_0))
        leave_only(self._folder.path, self.checkpoints.whole_names())
        self._here().write_text(claim)

    def fetch(self, names: tuple[str, ...]) -> None:
        """Downloads files; one that is not there is removed here."""
        self._folder.path.mkdir(parents=True, exist_ok=True)
        there = self.remote.names()
        meter = Meter(self._progress, "fetch records", sum(there.get(name, 0) for name in names))
        for name in names:
            if name in there:
                self.remote.get(name, self._folder.path / name, meter.part())
            else:
                (self._folder.path / name).unlink(missing_ok=True)

    def fetch_folder(self, name: str) -> None:
        """Downloads what lies below one folder."""
        files = self.remote.below(name).names()
        meter = Meter(self._progress, f"fetch {name}", sum(files.values()))
        for file in files:
            self.remote.get(f"{name}/{file}", self._folder.path / name / file, meter.part())

    # -- there from here

    def push(self, names: tuple[str, ...]) -> None:
        """Uploads those files that have changed since the last time, as they are at this moment."""
        for name in names:
            path = self._folder.path / name
            if not path.is_file():
                continue
            state = path.stat()
            if self._pushed.get(path) == (state.st_size, state.st_mtime_ns):
                continue
            self.remote.patience.call(f"sending {name}", functools.partial(self._send, path, name))
            self._pushed[path] = (state.st_size, state.st_mtime_ns)

    def _send(self, path: Path, name: str) -> None:
        """A copy of it, since the file may grow while it is sent."""
        with contextlib.suppress(FileNotFoundError), tempfile.TemporaryDirectory(dir=self._folder.path, prefix=".sending-") as copies:
            self.remote.put(Path(shutil.copy(path, copies)), name)

    def push_folder(self, name: str) -> None:
        """Uploads all files below one folder."""
        folder = self._folder.path / name
        self.push(tuple(path.relative_to(self._folder.path).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()))

    def push_records(self) -> None:
        """What rank 0 writes, with the commands that were asked for there taken in first."""
        self._take_in_commands()
        self.push(OF_RANK_0)

    # -- decisions by hand

    def ask(self, line: bytes) -> None:
        """Leaves a command for the run, as a file of its own, so that nobody writes over another's."""
        self.remote.write(f"{_ASKED}/{time.time_ns()}-{secrets.token_hex(4)}.json", line)

    def _take_in_commands(self) -> None:
        asked = self.remote.below(_ASKED)
        commands = CommandsFile(self._folder.path)
        for name in sorted(asked.names()):
            line = asked.read(name)
            if line is not None:
                commands.take_in(line, name)
            self.push((COMMANDS_FILE,))
            asked.delete([name])

    def bring(self, key: tuple[int, ...]) -> bool:
        """Gets a checkpoint by key; whether there is such a one."""
        wanted = next((stored for stored in self.checkpoints.all() if stored.manifest.key == key), None)
        if wanted is not None:
            self.checkpoints.bring(wanted)
        return wanted is not None
