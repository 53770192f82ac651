"""The run folder's two record files: one JSON object a line, appended by rank 0 of training.

A line counts once its newline is on disk. What follows the last newline is a write that a kill cut short: readers skip it,
the next writer removes it.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from raystage.config.errors import ConfigError

Record = dict[str, Any]


def _plain(value: Any) -> Any:
    """Of NumPy's numbers, and of texts that are more than that, like torch.__version__."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a record cannot hold {type(value).__name__}")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)  # NaN and infinities become null
METRICS_FILE = "metrics.jsonl"
DECISIONS_FILE = "decisions.jsonl"


class JsonlWriter:
    """Appends records to one file. They are handed to the operating system whole, so a killed process loses none.

    What a full disk does not take waits in memory and is written, in order, with the next record or by `catch_up`.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _remove_torn_line(self._path)
        self._file = _open_to_append(self._path)
        self._waiting: collections.deque[bytes] = collections.deque()

    def write(self, *records: Mapping[str, Any]) -> None:
        """Appends records, in one call of the system. NaN and infinities, which JSON has not, become null."""
        self._waiting.append(_lines(records))
        self.catch_up()

    def catch_up(self) -> None:
        """Writes what waits, as far as the disk takes it."""
        while self._waiting and _append_whole(self._file, self._waiting[0]):
            self._waiting.popleft()

    def truncate_after(self, step: int, key: str = "step") -> int:
        """Drops the records past `step` (by `key`: step or effective_step) and every `end`, in one atomic replacement.

        Returns how many. `start` records up to `step` stay: they are the history of restarts.
        """
        return self.drop(lambda record: record[key] > step or record.get("kind") == "end")

    def drop(self, unwanted: Callable[[Record], bool]) -> int:
        """Drops the unwanted records in one atomic replacement; returns how many."""
        if not any(unwanted(record) for _, record in _each(self._path)):
            return 0  # nothing is written then, which a full disk would refuse
        fresh, n_dropped = self._path.with_name(f"{self._path.name}.new"), 0
        with fresh.open("wb") as file:
            for line, record in _each(self._path):
                if unwanted(record):
                    n_dropped += 1
                else:
                    file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._file.close()
        os.replace(fresh, self._path)
        self._file = _open_to_append(self._path)
        return n_dropped

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "JsonlWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_records(path: str | Path) -> list[Record]:
    """The records of one file, none if it is not there. Raises ConfigError (file and line) for a broken line."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    lines = data.split(b"\n")[:-1]
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _each(path: Path) -> Iterator[tuple[bytes, Record]]:
    """Lines and their records, one at a time: those of a long run would fill gigabytes. Raises ConfigError for a broken line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield line, _parsed(line, f"{path}:{number}")


def parse_line(line: bytes) -> Record | None:
    """The record of one line; None if it holds no JSON object."""
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


@dataclasses.dataclass(frozen=True)
class RunRecords:
    """All records of one run, in file order."""

    starts: list[Record]
    train: list[Record]
    checks: list[Record]
    val: list[Record]
    ends: list[Record]
    decisions: list[Record]
    pauses: list[Record]

    @classmethod
    def load(cls, run_dir: str | Path) -> "RunRecords":
        """Reads both files of a run folder. Raises ConfigError if there is no such folder or a line is broken."""
        folder = Path(run_dir)
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such run folder; 'raystage runs' lists them")
        metrics = read_records(folder / METRICS_FILE)

        def of(kind: str) -> list[Record]:
            return [record for record in metrics if record.get("kind") == kind]

        decisions = read_records(folder / DECISIONS_FILE)
        return cls(of("start"), of("train"), of("check"), of("val"), of("end"), decisions, of("pause"))


def _parsed(line: bytes, where: str) -> Record:
    record = parse_line(line)
    if record is None:
        raise ConfigError(f"{where}: not a JSON object; mend or delete this line")
    return record


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(_ENCODER.encode(record) + b"\n" for record in records)


def without_non_finite(value: Any) -> Any:
    """Plain nested values as JSON has them: null for NaN and infinities."""
    return msgspec.json.decode(_ENCODER.encode(value))


def _open_to_append(path: Path) -> FileIO:
    return path.open("ab", buffering=0)


def _append_whole(file: FileIO, line: bytes) -> bool:
    """False where the disk does not take the line; then nothing of it is there."""
    try:
        n_bytes = file.write(line)
    except OSError:
        return False
    if n_bytes < len(line):
        os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size - n_bytes)
    return n_bytes == len(line)


def _remove_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
