"""What a report reads of a metrics.jsonl, as columns of numbers, and the way back to a record as it was written."""

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
_BLOCK_BYTES = 1 << 18  # what is decoded at a time stays in the processor's cache


@dataclasses.dataclass(frozen=True)
class Block:
    """Some hundreds of whole lines, and how many of them are training records."""

    offset: int
    n_bytes: int
    n_train: int


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
    blocks: Sequence[Block]

    def train_records(self, positions: Sequence[int]) -> list[Record]:
        """The whole records at these positions of the training column, with every key they have."""
        ends = np.cumsum([block.n_train for block in self.blocks])
        with self.path.open("rb") as file:
            return [self._train_record(file, position, ends) for position in positions]

    def _train_record(self, file: io.BufferedReader, position: int, ends: NDArray[np.int64]) -> Record:
        number = int(np.searchsorted(ends, position, side="right"))
        block = self.blocks[number]
        file.seek(block.offset)
        records = (parse_line(line) for line in file.read(block.n_bytes).splitlines())
        train = [record for record in records if record and record.get("kind") == "train"]
        return train[position - (int(ends[number]) - block.n_train)]


def blocks_of(path: Path) -> Iterator[memoryview]:
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
