"""How an attempt under Ray Train ended, as rank 0 leaves it for the driver, which may be on another node."""

from typing import Any

import pyarrow.fs

from raystage.runtime.remote_run import RemoteRun
from raystage.runtime.run_folder import RunFolder
from raystage.runtime.worker import Assignment
from raystage.storage.address import is_uri, open_filesystem
from raystage.storage.patience import Patience

_WORD = "ray/outcome"


def leave_word(assignment: Assignment, said: str) -> None:
    """Rank 0's last word, here and where storage is a URI there."""
    path = assignment.run_dir / _WORD
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(said)
    run = _elsewhere(assignment)
    if run is not None:
        run.push((_WORD,))


def last_word(assignment: Assignment) -> str:
    """What rank 0 has left."""
    run = _elsewhere(assignment)
    if run is not None and not run.works_here():
        return (run.remote.read(_WORD) or b"").decode()
    return (assignment.run_dir / _WORD).read_text()


def ray_storage(assignment: Assignment) -> dict[str, Any]:
    """Ray Train's own storage, which all nodes have to see: beside the run's."""
    config = assignment.config
    if not is_uri(config.storage):
        return {"storage_path": str(assignment.run_dir / "ray")}
    filesystem, path = open_filesystem(f"{config.storage.rstrip('/')}/{config.name}/ray", "storage")
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))}


def _elsewhere(assignment: Assignment) -> RemoteRun | None:
    patience = Patience(60 * assignment.config.checkpoint.storage_retry_minutes)
    return RemoteRun.of(assignment.config, RunFolder(assignment.run_dir), patience)
