"""Files that survive a power cut, folders that are there whole or not at all."""

import contextlib
import hashlib
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


def digest(path: Path) -> str:
    """blake2b of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def begin_folder(target: Path) -> Path:
    """An empty hidden folder in place of one that a kill has left; `finish_folder` gives it the name `target`."""
    partial = partial_of(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def partial_of(target: Path) -> Path:
    """The hidden folder in which `target` is made."""
    return target.with_name(f".{target.name}.partial")


def finish_folder(target: Path, replace: bool = False) -> None:
    """Renames the hidden folder when all of it is on disk. `replace`: in the place of an older `target`; else raises OSError."""
    partial = partial_of(target)
    for path in partial.rglob("*"):
        sync_to_disk(path)
    sync_to_disk(partial)
    aside = partial_of(target.with_name(f"{target.name}.replaced"))
    if replace and target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)  # a kill while it is deleted would leave neither of the two
    partial.rename(target)
    sync_to_disk(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def whole_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """An empty hidden folder to write files into; it takes the name `target` when all of them are on disk.

    `replace`: in the place of an older `target`; otherwise there must be none, or OSError is raised. After an error in between
    nothing is left; after a kill the hidden folder is, which the next writing clears.
    """
    partial = begin_folder(target)
    try:
        yield partial
        finish_folder(target, replace)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
