"""How far a long reading is, for whoever draws it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from raystage.config.schema import Source
from raystage.data.files import matching_files
from raystage.data.stdlib_files import stdlib_files


class Progress(Protocol):
    def __call__(self, label: str, done: int, total: int | None, unit: str = "bytes") -> None:
        """So much is done of a total, where that is known. `unit`: bytes, or what is counted, in the plural. The label names the bar."""
        ...


def no_progress(label: str, done: int, total: int | None, unit: str = "bytes") -> None:
    """For whoever draws nothing."""


class Meter:
    """Counts the bytes of one labelled reading and tells `progress` of each advance."""

    def __init__(self, progress: Progress, label: str, total_bytes: int | None) -> None:
        self._progress = progress
        self._label = label
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._progress(label, 0, total_bytes)

    def advance(self, n_bytes: int) -> None:
        self._done_bytes += n_bytes
        self._progress(self._label, self._done_bytes, self._total_bytes)

    def part(self) -> Callable[[int], None]:
        """Takes how much of one part has come, as often as that changes and from 0 again where it has to; parts come one by one."""
        begun_bytes = self._done_bytes

        def come(n_bytes: int) -> None:
            self._done_bytes = begun_bytes + n_bytes
            self._progress(self._label, self._done_bytes, self._total_bytes)

        return come

    def finish(self) -> None:
        """All that was wanted is read, be it less than the total: what counts as done is now the total."""
        self._progress(self._label, self._done_bytes, self._done_bytes)


def total_bytes(sources: Sequence[Source]) -> int | None:
    """[bytes] of the sources' files as they lie, packed; None where a data set or a document limit leaves it open."""
    if any(source.kind == "dataset" or source.max_documents for source in sources):
        return None
    file_lists = [stdlib_files() if source.kind == "stdlib" else matching_files(source.path or "") for source in sources]
    return sum(path.stat().st_size for files in file_lists for path in files)
