"""One folder elsewhere: files put, fetched, listed and deleted, each tried until it works."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from raystage.config.errors import ConfigError
from raystage.config.names import is_below
from raystage.storage.address import open_filesystem
from raystage.storage.faults import store_faults
from raystage.storage.patience import Patience

Result = TypeVar("Result")

PARTIAL = ".partial"
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az", "adl", "oss", "r2", "memory"}  # they have no folders to make


class RemoteFolder:
    """Names are paths below the folder, with slashes. Every operation may be repeated, and raises StorageError past the limit.

    An object store shows an object when all of it is there; on file:// a file gets its name when it is whole. Whatever else there
    is may show half a file after a crash: callers write a list with checksums last.
    """

    def __init__(self, filesystem: AbstractFileSystem, path: str, uri: str, patience: Patience) -> None:
        self._filesystem, self._path, self.uri, self.patience = filesystem, path, uri.rstrip("/"), patience
        spoken = {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)
        self._is_disk, self._has_folders = "file" in spoken, not spoken & _OBJECT_STORES

    @classmethod
    def open(cls, uri: str, key: str, patience: Patience) -> "RemoteFolder":
        """The folder at `uri`, which need not exist. Raises ConfigError, with `key`, for what fsspec cannot open."""
        filesystem, path = open_filesystem(uri, key)
        return cls(filesystem, path, uri, patience)

    def below(self, name: str) -> "RemoteFolder":
        """A folder in this one."""
        return RemoteFolder(self._filesystem, f"{self._path}/{name}", f"{self.uri}/{name}", self.patience)

    def check_writable(self, key: str, name: str) -> None:
        """Writes an empty file once. Raises ConfigError where that is not allowed or the bucket is missing; waits for nothing."""
        try:
            self._write(name, b"")
        except (PermissionError, FileNotFoundError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{key}={self.uri}: cannot be written ({reason}); check the bucket and the credentials") from None
        except store_faults():
            return  # it may come back: the operations that follow try again

    def put(self, file: Path, name: str) -> None:
        """Uploads a file that nobody changes meanwhile, over what was there. Raises FileNotFoundError once it is gone from here."""
        if not self._call(f"writing {self.uri}/{name}", lambda: self._put(file, name)):
            raise FileNotFoundError(str(file))

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file."""
        self._call(f"writing {self.uri}/{name}", lambda: self._write(name, content))

    def get(self, name: str, file: Path, arrived: Callable[[int], None] | None = None) -> None:
        """Downloads a file, which appears when it is whole. Raises FileNotFoundError where there is none.

        `arrived`: told how many of its bytes have, from 0 again with each try.
        """
        if not self._call(f"reading {self.uri}/{name}", lambda: self._get(name, file, arrived)):
            raise FileNotFoundError(f"{self.uri}/{name}")

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where there is none."""
        return self._call(f"reading {self.uri}/{name}", lambda: self._read(name))

    def names(self) -> dict[str, int]:
        """Every file below the folder with its size in bytes; names that lead out of it, which object stores allow, are left out."""
        return self._call(f"listing {self.uri}", self._names)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes files; it does not matter if one is gone already."""
        for name in names:
            self._call(f"deleting {self.uri}/{name}", lambda name=name: self._delete(name))  # type: ignore[misc]

    def _call(self, what: str, operation: Callable[[], Result]) -> Result:
        return self.patience.call(what, operation)

    # -- one try each

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _put(self, file: Path, name: str) -> bool:
        if not file.is_file():
            return False
        target = self._make_way(name)
        self._filesystem.put_file(str(file), target)
        self._settle(name, target, file.stat().st_size)
        return True

    def _write(self, name: str, content: bytes) -> None:
        target = self._make_way(name)
        self._filesystem.pipe_file(target, content)
        self._settle(name, target, len(content))

    def _make_way(self, name: str) -> str:
        if self._has_folders:
            self._filesystem.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
        return self._at(name) + PARTIAL * self._is_disk

    def _settle(self, name: str, target: str, size_bytes: int) -> None:
        """Compares sizes, then gives the file its name."""
        self._filesystem.invalidate_cache()
        there = self._filesystem.info(target)["size"]
        if there != size_bytes:
            raise OSError(f"{there:,} of {size_bytes:,} bytes arrived")
        if self._is_disk:
            self._filesystem.mv(target, self._at(name))

    def _get(self, name: str, file: Path, arrived: Callable[[int], None] | None) -> bool:
        self._filesystem.invalidate_cache()
        try:
            size_bytes = self._filesystem.info(self._at(name))["size"]
        except FileNotFoundError:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}{PARTIAL}")
        try:
            hooks = {"arrived": lambda size, value, **_: arrived(value)} if arrived is not None else {}
            self._filesystem.get_file(self._at(name), str(partial), callback=Callback(hooks=hooks))
            there = partial.stat().st_size
            if there != size_bytes:
                raise OSError(f"{there:,} of {size_bytes:,} bytes arrived")
            partial.replace(file)
            if arrived is not None:
                arrived(size_bytes)  # not every filesystem tells on the way
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _read(self, name: str) -> bytes | None:
        self._filesystem.invalidate_cache()
        try:
            return bytes(self._filesystem.cat_file(self._at(name)))
        except FileNotFoundError:
            return None

    def _names(self) -> dict[str, int]:
        self._filesystem.invalidate_cache()
        try:
            found = self._filesystem.find(self._path, detail=True)
        except FileNotFoundError:
            return {}
        names = {path[len(self._path) + 1 :]: int(info["size"]) for path, info in found.items() if not path.endswith(PARTIAL)}
        return {name: size_bytes for name, size_bytes in names.items() if is_below(name)}

    def _delete(self, name: str) -> None:
        try:
            self._filesystem.rm_file(self._at(name))
        except FileNotFoundError:
            return
