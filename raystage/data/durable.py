"""Files that survive a power cut, folders that are there whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def sync_to_disk(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """An empty hidden folder to write files into; it takes the name `target` when all of them are on disk.

    `replace`: in the place of an older `target`; otherwise there must be none, or OSError is raised. After an error in between
    nothing is left; after a kill the hidden folder is, which the next writing clears.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.iterdir():
            sync_to_disk(path)
        sync_to_disk(partial)
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_to_disk(target.parent)
