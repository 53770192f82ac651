"""The records of one metrics.jsonl as columns: read in small blocks, so that a million records need neither minutes nor gigabytes."""

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from raystage.config.errors import ConfigError
from raystage.tracking.records import Record, parse_line

Values = NDArray[np.float64]
KEYS: dict[str, tuple[str, ...]] = {
    "train": (
        "tokens_seen", "flops", "time_s", "stage", "world_size", "second_moment", "step", "loss", "grad_norm", "tokens_per_s", "mfu",
    ),
    "val": ("tokens_seen", "flops", "time_s", "stage", "step", "val_loss", "stage_end"),
    "check": ("tokens_seen", "stage", "step", "slope", "slope_bound", "threshold", "fired"),
    "start": ("step", "tokens_seen", "flops", "time_s", "world_size"),
    "end": ("step",),
}  # fmt: skip
_CLOCKS = {
    "train": ("step", "tokens_seen", "flops", "time_s", "stage"),
    "val": ("step", "tokens_seen", "flops", "time_s"),
    "check": ("step",),
}
_BLOCK_BYTES = 1 << 18  # what is decoded at a time stays in the processor's cache


class _Line(msgspec.Struct, gc=False):
    """What is read of a line, in the order in which training writes it: each key is then found at the first look."""

    kind: str
    tokens_seen: float | None = None
    flops: float | None = None
    time_s: float | None = None
    stage: float | None = None
    world_size: float | None = None
    device: str | None = None
    second_moment: float | None = None
    step: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    slope: float | None = None
    mfu: float | None = None
    val_loss: float | None = None
    stage_end: bool | None = None
    slope_bound: float | None = None
    threshold: float | None = None
    fired: bool | None = None


_GETTERS: dict[str, Callable[[_Line], Any]] = {key: attrgetter(key) for keys in KEYS.values() for key in keys}


@dataclasses.dataclass(frozen=True)
class Columns:
    """The records of one kind, in file order. A column is nan where the record has null or not the key; booleans are 0 and 1."""

    kind: str
    of: Mapping[str, Values]

    def __len__(self) -> int:
        return len(self.of["step"])

    def __getitem__(self, key: str) -> Values:
        return self.of[key]

    def step(self, position: int) -> int:
        """The step of one record."""
        return int(self.of["step"][position])

    def known(self, key: str) -> "Columns":
        """The records with a value of this key."""
        return Columns(self.kind, {name: column[~np.isnan(self.of[key])] for name, column in self.of.items()})


@dataclasses.dataclass(frozen=True)
class Metrics:
    """All records of a metrics.jsonl that a report reads, and a way back to any training record as it was written."""

    path: Path
    of: Mapping[str, Columns]
    device: str
    _blocks: Sequence[tuple[int, int, int]]

    def train_records(self, positions: Sequence[int]) -> list[Record]:
        """The whole records at these positions of the training column, with every key they have."""
        ends = np.cumsum([n_train for _, _, n_train in self._blocks])
        with self.path.open("rb") as file:
            return [self._train_record(file, position, ends) for position in positions]

    def _train_record(self, file: io.BufferedReader, position: int, ends: NDArray[np.int64]) -> Record:
        block = int(np.searchsorted(ends, position, side="right"))
        offset, n_bytes, n_train = self._blocks[block]
        file.seek(offset)
        records = (parse_line(line) for line in file.read(n_bytes).splitlines())
        train = [record for record in records if record and record.get("kind") == "train"]
        return train[position - (int(ends[block]) - n_train)]


def read_metrics(path: Path) -> Metrics:
    """Reads the file once; what follows the last newline is not a record yet. Raises ConfigError (file and line) for a broken line."""
    parts: dict[str, list[dict[str, Values]]] = {kind: [] for kind in KEYS}
    blocks: list[tuple[int, int, int]] = []
    device, offset, n_lines = "", 0, 0
    for block in _blocks(path):
        n_here = int(np.count_nonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")))
        found = _by_kind(_decoded(block, path, n_lines, n_here))
        for kind, lines in found.items():
            parts[kind].append({key: np.array(list(map(_GETTERS[key], lines)), dtype=np.float64) for key in KEYS[kind]})
        device = next((line.device for line in reversed(found.get("start", [])) if line.device), device)
        blocks.append((offset, len(block), len(found.get("train", []))))
        offset += len(block)
        n_lines += n_here
    columns = {kind: _joined(kind, parts[kind]) for kind in KEYS}
    for kind, keys in _CLOCKS.items():
        _demand(columns[kind], keys, path)
    return Metrics(path, columns, device, blocks)


def _blocks(path: Path) -> Iterator[memoryview]:
    """Whole lines, some hundreds at a time; each is good until the next is asked for."""
    if not path.is_file():
        return
    buffer, kept = bytearray(_BLOCK_BYTES), 0
    with path.open("rb", buffering=0) as file:
        while n_read := file.readinto(memoryview(buffer)[kept:]):
            end = buffer.rfind(b"\n", 0, kept + n_read) + 1
            if end:
                yield memoryview(buffer)[:end]
            kept += n_read - end
            buffer[:kept] = buffer[end : end + kept]
            if kept == len(buffer):
                buffer = buffer + bytearray(len(buffer))


def _by_kind(lines: list[_Line]) -> dict[str, list[_Line]]:
    """The lines of the kinds that are read. Nearly all are of training, so the others are looked through apart."""
    train = [line for line in lines if line.kind == "train"]
    others = [line for line in lines if line.kind != "train" and line.kind in KEYS] if len(train) < len(lines) else []
    found = {kind: [line for line in others if line.kind == kind] for kind in {line.kind for line in others}}
    return found | {"train": train} if train else found


def _decoded(block: memoryview, path: Path, n_before: int, n_lines: int) -> list[_Line]:
    try:
        lines = _decoder.decode_lines(block)
    except msgspec.MsgspecError:
        return _one_by_one(block, path, n_before)
    # the decoder takes two records on a line and one on two; neither is what was written
    return lines if len(lines) == n_lines else _one_by_one(block, path, n_before)


_decoder = msgspec.json.Decoder(_Line)


def _one_by_one(block: memoryview, path: Path, n_before: int) -> list[_Line]:
    lines = []
    for number, text in enumerate(bytes(block).splitlines(), n_before + 1):
        if not text.strip():
            continue
        try:
            lines.append(_decoder.decode(text))
        except msgspec.MsgspecError as error:
            record = parse_line(text)
            if record is None:
                raise ConfigError(f"{path}:{number}: not a JSON object; mend or delete this line") from None
            if record.get("kind") in KEYS:
                raise ConfigError(f"{path}:{number}: {error}; mend or delete this line") from None
    return lines


def _joined(kind: str, parts: list[dict[str, Values]]) -> Columns:
    return Columns(kind, {key: np.concatenate([part[key] for part in parts] or [np.empty(0)]) for key in KEYS[kind]})


def _demand(columns: Columns, keys: Sequence[str], path: Path) -> None:
    for key in keys:
        missing = np.flatnonzero(np.isnan(columns[key]))
        if len(missing):
            raise ConfigError(f"{path}: the {columns.kind} record number {missing[0] + 1} has no {key}; mend or delete its line")
