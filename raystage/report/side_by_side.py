"""Work on large runs in several processes: reading millions of records and drawing take seconds each, and one core a task."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from raystage.devices.cores import n_cores
from raystage.tracking.records import METRICS_FILE

_LARGE_BYTES = 100_000_000  # below, a second process takes longer to start than it saves
T = TypeVar("T")
R = TypeVar("R")


class SideBySide(Protocol):
    """As the builtin map, whatever it runs on."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]: ...


@contextmanager
def for_runs(folders: Sequence[Path]) -> Iterator[SideBySide]:
    """A map over processes, one a core, if the runs are large; else the builtin one."""
    n_bytes = sum((folder / METRICS_FILE).stat().st_size for folder in folders if (folder / METRICS_FILE).is_file())
    n_processes = n_cores()
    if n_processes == 1 or n_bytes < _LARGE_BYTES:
        yield map
        return
    with ProcessPoolExecutor(n_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map
