"""Folders that are whole or not there, whoever is killed and however many build at once."""

import errno
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raystage.config import ConfigError
from raystage.data.durable import sync_to_disk
from raystage.storage.faults import StorageError

PREFIX = ".building"


@contextmanager
def building(folder: Path, is_whole: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary folder beside `folder` to build in; leaving the `with` makes it durable and renames it to `folder`.

    A whole `folder` that another process finished first stays, a damaged one is replaced. An exception, or a kill, leaves
    `folder` as it was. Raises ConfigError where the cache cannot be written.
    """
    temporary = _temporary_folder(folder.parent)
    try:
        yield temporary
        for path in temporary.iterdir():
            sync_to_disk(path)
        sync_to_disk(temporary)
        _publish(temporary, folder, is_whole)
        sync_to_disk(folder.parent)
    except StorageError:
        raise
    except OSError as error:
        raise _unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(cache: Path) -> None:
    """Removes the temporary folders of processes of this machine that have ended."""
    for path in cache.glob(f"{PREFIX}~*"):
        _, host, pid, _ = path.name.split("~")
        if host == socket.gethostname() and not _is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _temporary_folder(cache: Path) -> Path:
    folder = cache / f"{PREFIX}~{socket.gethostname()}~{os.getpid()}~{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(cache, error) from None
    return folder


def _unwritable(cache: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{cache}: cannot be written ({error.strerror}); make room there, or name another folder (data.cache_dir, data.node_cache_dir)"
    )


def _publish(temporary: Path, folder: Path, is_whole: Callable[[Path], bool]) -> None:
    if folder.exists() and not is_whole(folder):
        # renamed before it is removed, so that nobody finds a part of it
        os.rename(folder, damaged := _temporary_folder(folder.parent) / folder.name)
        shutil.rmtree(damaged.parent, ignore_errors=True)
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
