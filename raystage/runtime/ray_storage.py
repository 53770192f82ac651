"""Where Ray Train keeps its own files: beside the run's, where every node sees them."""

from typing import Any

import pyarrow.fs

from raystage.runtime.assignment import Assignment
from raystage.storage.address import is_uri, open_filesystem


def ray_storage(assignment: Assignment) -> dict[str, Any]:
    """The storage of a Ray Train RunConfig."""
    config = assignment.config
    if not is_uri(config.storage):
        return {"storage_path": str(assignment.run_dir / "ray")}
    filesystem, path = open_filesystem(f"{config.storage.rstrip('/')}/{config.name}/ray", "storage")
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))}
