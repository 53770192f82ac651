"""Runs at a URI for those who only look: what a command needs is copied into a folder beside the ones that runs work in.

`progress` hears of what is copied, in bytes.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from raystage.config import ConfigError
from raystage.config.names import check_name, shortened
from raystage.data.progress import Progress, no_progress
from raystage.runtime.remote_run import CONFIG_FILE, TOKENIZER_FILES, RemoteRun
from raystage.runtime.run_folder import RunFolder
from raystage.runtime.run_list import run_table
from raystage.storage.address import is_uri, local_folder_of
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience
from raystage.storage.remote import RemoteFolder
from raystage.tracking.mlflow_mark import MARK_FILE
from raystage.tracking.records import DECISIONS_FILE, METRICS_FILE
from raystage.training.checkpoint import BEST, MANIFEST_FILE, Stored, in_order_of_choice, names_of
from raystage.training.errors import CheckpointError

_VIEWED = "~/.cache/raystage/viewed"
_PATIENCE_S = 20.0


def view_records(run: str, progress: Progress = no_progress) -> Path:
    """A folder with the run's records. Raises ConfigError."""
    if not is_uri(run):
        return Path(run)
    viewed = _open(run, progress)
    _fetch(viewed, (CONFIG_FILE, METRICS_FILE, DECISIONS_FILE))
    try:
        for name in ("evaluations", "report"):
            _mirror(viewed, run, name)
    except StorageError as error:
        raise ConfigError(str(error)) from None
    return _folder(run)


def view_checkpoint(run: str, name: str | None, progress: Progress = no_progress) -> Path:
    """A run folder that holds the checkpoint that `name` chooses, see `choose_checkpoint`. Raises ConfigError."""
    if not is_uri(run):
        return Path(run)
    viewed = _open(run, progress)
    _fetch(viewed, (CONFIG_FILE, MARK_FILE, *TOKENIZER_FILES))
    try:
        there = viewed.checkpoints.mirror()
        wanted = in_order_of_choice(there, name)
        if not wanted and name not in (None, BEST):
            raise ConfigError(f"{shortened(name)}: no such checkpoint; {run} has {names_of(there)}")
        for stored in wanted:
            if _bring(viewed, stored, is_wanted=name not in (None, BEST)):
                break
    except StorageError as error:
        raise ConfigError(str(error)) from None
    return _folder(run)


def _bring(viewed: RemoteRun, stored: Stored, is_wanted: bool) -> bool:
    """False for one that is damaged there: the one before is taken. Raises ConfigError where just this one is wanted."""
    try:
        viewed.checkpoints.bring(stored)
    except CheckpointError as error:
        if is_wanted:
            raise ConfigError(str(error).replace("using the one before", "take another one")) from None
        shutil.rmtree(stored.folder, ignore_errors=True)
        return False
    return True


def view_model(source: str, progress: Progress = no_progress) -> Path:
    """The folder of a finished run's model, or of the Hugging Face model that lies there. Raises ConfigError."""
    if not is_uri(source):
        return Path(source) / "model" if (Path(source) / "model").is_dir() else Path(source)
    try:
        _mirror(_open(source, progress), source, "model")
    except StorageError as error:
        raise ConfigError(str(error)) from None
    folder = _folder(source) / "model"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{source}: no model there; a run has one when it is complete")
    return folder


def _mirror(viewed: RemoteRun, run: str, name: str) -> None:
    """One folder as it is there: the run may be another one than that which was looked at under this name before."""
    folder, there = _folder(run) / name, viewed.remote.below(name).names()
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in there:
            path.unlink()
    viewed.fetch_folder(name)


def send_files(run: str, paths: Iterable[Path]) -> None:
    """Copies files of the folder that stands for the run at a URI to that URI. Raises ConfigError."""
    viewed, folder = _open(run, no_progress), _folder(run)
    try:
        viewed.push(tuple(path.relative_to(folder).as_posix() for path in paths))
    except StorageError as error:
        raise ConfigError(str(error)) from None


def list_runs(storage: str) -> Table:
    """The runs of a folder or a URI, as a table. Raises ConfigError."""
    if not is_uri(storage):
        return run_table(Path(storage))
    with tempfile.TemporaryDirectory() as folder:
        try:
            _fetch_heads(RemoteFolder.open(storage, "--storage", Patience(_PATIENCE_S)), Path(folder))
        except StorageError as error:
            raise ConfigError(str(error)) from None
        return run_table(Path(folder))


def _fetch_heads(remote: RemoteFolder, folder: Path) -> None:
    """Configurations and manifests alone."""
    for name in remote.names():
        parts = name.split("/")
        is_manifest = len(parts) == 4 and parts[1] == "checkpoints" and parts[3] == MANIFEST_FILE
        if is_manifest or parts[1:] == [CONFIG_FILE]:
            with contextlib.suppress(FileNotFoundError):  # retired meanwhile
                remote.get(name, folder / name)


def _open(run: str, progress: Progress) -> RemoteRun:
    storage, _, _ = run.rstrip("/").rpartition("/")
    return RemoteRun.at(storage, RunFolder(_folder(run)), Patience(_PATIENCE_S), progress)


def _folder(run: str) -> Path:
    storage, _, name = run.rstrip("/").rpartition("/")
    return local_folder_of(storage, _VIEWED) / check_name(name, "run")


def _fetch(viewed: RemoteRun, names: tuple[str, ...]) -> None:
    try:
        if viewed.remote.read(CONFIG_FILE) is None:
            raise ConfigError(f"{viewed.remote.uri}: no run there; 'raystage runs --storage URI' lists them")
        viewed.fetch(names)
    except StorageError as error:
        raise ConfigError(str(error)) from None
