"""A store in memory that fails on purpose, as the filesystem `faulty://`."""

import dataclasses
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


@dataclasses.dataclass
class Faults:
    """What goes wrong. `every`: each k-th call; `away`: so many calls from now on; `full`: writes; `cut_short`: so many uploads keep
    their first half and say nothing; `broken_off`: so many keep it and raise; `only`: faults for names that hold this."""

    every: int = 0
    away: int = 0
    full: bool = False
    cut_short: int = 0
    broken_off: int = 0
    only: str = ""
    calls: int = 0
    failed: int = 0

    def meet(self, path: str, writes: bool) -> None:
        """Raises where this call is to fail."""
        if self.only not in path:
            return
        self.calls += 1
        if self.away > 0:
            self.away -= 1
            self._fail(ConnectionError("no route to the store"))
        if self.every and self.calls % self.every == 0:
            self._fail(TimeoutError("the store is slow"))
        if writes and self.full:
            self._fail(OSError(errno.ENOSPC, "quota exceeded"))

    def _fail(self, error: OSError) -> None:
        self.failed += 1
        raise error


FAULTS = Faults()


class FaultyFileSystem(MemoryFileSystem):
    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012 - as MemoryFileSystem has it
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("faulty://", "memory://")))

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        with open(lpath, "rb") as file:
            self.pipe_file(rpath, file.read())

    def pipe_file(self, path: str, value: bytes, *args: Any, **kwargs: Any) -> None:
        FAULTS.meet(path, writes=True)
        if FAULTS.only in path and len(value) > 1 and FAULTS.cut_short + FAULTS.broken_off > 0:
            super().pipe_file(path, value[: len(value) // 2])
            FAULTS.failed += 1
            if FAULTS.cut_short:
                FAULTS.cut_short -= 1
                return
            FAULTS.broken_off -= 1
            raise ConnectionResetError("connection reset in the middle")
        super().pipe_file(path, value)

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        FAULTS.meet(path, writes=False)
        return super().cat_file(path, *args, **kwargs)

    def get_file(self, rpath: str, lpath: str, *args: Any, **kwargs: Any) -> None:
        FAULTS.meet(rpath, writes=False)
        super().get_file(rpath, lpath, *args, **kwargs)

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        FAULTS.meet(path, writes=False)
        return super().find(path, *args, **kwargs)

    def rm_file(self, path: str) -> None:
        FAULTS.meet(path, writes=True)
        super().rm_file(path)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


@contextmanager
def empty_store(**faults: Any) -> Iterator[Faults]:
    """The store with nothing in it, and these faults until the end."""
    FaultyFileSystem.store.clear()
    set_faults(**faults)
    try:
        yield FAULTS
    finally:
        set_faults()
        FaultyFileSystem.store.clear()


def set_faults(**faults: Any) -> None:
    """These faults and no others, counted anew."""
    for field in dataclasses.fields(Faults):
        setattr(FAULTS, field.name, faults.get(field.name, field.default))


def stored(part: str = "") -> dict[str, bytes]:
    """What the store holds under names with `part` in them."""
    return {path: file.getvalue() for path, file in sorted(FaultyFileSystem.store.items()) if part in path}
