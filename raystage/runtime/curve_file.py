"""A recorded loss curve from a CSV file, a run's metrics.jsonl or a run folder; every mistake names its file and line."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raystage.config import ConfigError
from raystage.tracking.records import METRICS_FILE, parse_line

Array = NDArray[np.float64]
_NEEDED = ("step", "loss")
_OPTIONAL = ("tokens", "seconds", "lr")
# what a run's records call the columns
_KEYS = {
    "step": "step",
    "loss": "loss",
    "tokens": "tokens_seen",
    "seconds": "time_s",
    "lr": "lr",
    "compute": "compute",
    "tokens_per_parameter": "tokens_per_parameter",
    "stage": "stage",
    "n_rollbacks": "n_rollbacks",
}
_RISING = ("step", "tokens")
_MAX_SHOWN = 40  # characters of a value in a message

Row = tuple[str, dict[str, float]]  # where it stands, its numbers by column


@dataclasses.dataclass(frozen=True)
class RecordedCurve:
    """Columns of shape (n,), `step` and `tokens` rising; None: not recorded. A first row of step 0 is left out.

    `compute`: 6 x parameters x effective tokens; `tokens_per_parameter`: effective tokens over parameters; `stage`, `n_rollbacks`: how
    many changes and rollbacks lay behind, all 0 in a CSV file.
    """

    path: Path
    step: NDArray[np.int64]
    loss: Array
    tokens: Array | None
    seconds: Array | None
    lr: Array | None
    compute: Array | None
    tokens_per_parameter: Array | None
    stage: NDArray[np.int64]
    n_rollbacks: NDArray[np.int64]


def read_curve(path: Path) -> RecordedCurve:
    """The curve of a CSV file with a header (step, loss, any of tokens, seconds, lr), of a metrics.jsonl or of a run folder.

    Raises ConfigError for a file that cannot be read, a missing column, a broken number or steps out of order.
    """
    file = path / METRICS_FILE if path.is_dir() else path
    data = _content(file)
    rows = list(_train_rows(data, file) if file.suffix == ".jsonl" else _csv_rows(data, file))
    for row in rows:
        _check_row(*row)
    rows = rows[1:] if rows and rows[0][1]["step"] == 0 else rows  # no step lies behind it, and no compute
    if not rows:
        raise ConfigError(f"{file}: holds no training step; give a CSV file with columns step and loss, or the metrics.jsonl of a run")
    _check_order(rows)
    columns = {key: np.array([row[key] for _, row in rows]) for key in rows[0][1] if all(key in row for _, row in rows)}
    steps = columns["step"].astype(np.int64)
    return RecordedCurve(
        path=path,
        step=steps,
        loss=columns["loss"],
        **{key: columns.get(key) for key in (*_OPTIONAL, "compute", "tokens_per_parameter")},
        stage=columns["stage"].astype(np.int64) if "stage" in columns else np.zeros_like(steps),
        n_rollbacks=columns["n_rollbacks"].astype(np.int64) if "n_rollbacks" in columns else np.zeros_like(steps),
    )


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a CSV file, a metrics.jsonl or a run folder") from None


def _csv_rows(data: bytes, file: Path) -> Iterator[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a text file; give a CSV file, a metrics.jsonl or a run folder") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        columns = _columns(next(reader, []), file)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                where = f"{file}:{reader.line_num}"
                yield where, {name: _number(cells, at, name, where) for name, at in columns.items()}
    except csv.Error as error:
        raise ConfigError(f"{file}:{reader.line_num}: {error}; give a CSV file with commas between its columns") from None


def _columns(header: list[str], file: Path) -> dict[str, int]:
    """Where each known column stands."""
    names = [cell.strip().lower() for cell in header]
    for name in _NEEDED:
        if name not in names:
            has = f"has {', '.join(cell.strip() for cell in header)}" if header else "is empty"
            raise ConfigError(f"{_cut(f'{file}:1: no column {name}; the header {has}', 240)}; it needs step and loss")
    repeated = [name for name in (*_NEEDED, *_OPTIONAL) if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"{file}:1: column {repeated[0]} stands there twice; keep one")
    return {name: names.index(name) for name in (*_NEEDED, *_OPTIONAL) if name in names}


def _number(cells: list[str], at: int, name: str, where: str) -> float:
    if at >= len(cells):
        raise ConfigError(f"{where}: no {name}, the row has {len(cells)} columns; complete or delete it")
    try:
        return float(cells[at])
    except ValueError:
        raise ConfigError(f"{where}: {name} is {_cut(repr(cells[at]))}, must be a number; mend or delete the row") from None


def _train_rows(data: bytes, file: Path) -> Iterator[Row]:
    # what follows the last newline is a write that a kill cut short
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        where = f"{file}:{number}"
        record = parse_line(line) if line.strip() else {}
        if record is None:
            raise ConfigError(f"{where}: not a JSON object; mend or delete this line")
        if record.get("kind") != "train":
            continue
        if "loss" in record and record["loss"] is None:
            continue  # it was not finite: a rollback followed
        for name in _NEEDED:
            if record.get(_KEYS[name]) is None:
                raise ConfigError(f"{where}: a train record without {name}; mend or delete this line")
        row = {name: record[key] for name, key in _KEYS.items() if record.get(key) is not None}
        for name, value in row.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"{where}: {_KEYS[name]} is {_cut(repr(value))}, must be a number; mend or delete this line")
        yield where, row


def _check_row(where: str, row: dict[str, float]) -> None:
    for name, value in row.items():
        if not math.isfinite(value):
            raise ConfigError(f"{where}: {name} is {value}, must be finite; delete the row, or end the curve before it")
    if row["step"] != int(row["step"]) or row["step"] < 0:
        raise ConfigError(f"{where}: step is {row['step']:g}, must be a whole number, 0 or above")
    for name in ("loss", "tokens", "compute"):
        if name in row and row["step"] > 0 and row[name] <= 0:
            raise ConfigError(f"{where}: {name} is {row[name]:g}, must be above 0, or it has no logarithm")
    if row.get("lr", 0.0) < 0:
        raise ConfigError(f"{where}: lr is {row['lr']:g}, must be 0 or above")


def _check_order(rows: list[Row]) -> None:
    """Refused and not sorted: steps that run back are two attempts in one file, and only their owner knows which counts."""
    for (_, before), (where, row) in pairwise(rows):
        for name in _RISING:
            if name in row and name in before and row[name] <= before[name]:
                raise ConfigError(f"{where}: {name} {row[name]:g} after {before[name]:g}, must rise; sort the file, one row a step")


def _cut(text: str, length: int = _MAX_SHOWN) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
