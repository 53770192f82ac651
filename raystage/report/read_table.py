"""The records of a large metrics.jsonl as one table, by DuckDB: in little more than half the time that an object a line takes."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from raystage.report.columns import KEYS, Block, Columns, Metrics, Values, blocks_of

_KINDS = list(KEYS)
_BOOLEANS = frozenset({"stage_end", "fired"})
_PATTERN = frozenset("*?[")  # what DuckDB would take a file's name for


def read_table(path: Path) -> Metrics | None:
    """None where a line is not what training writes, or just being written: such a file is to be read line by line."""
    table = None if _PATTERN & set(str(path)) else _table(path)
    if table is None:
        return None
    kinds = np.asarray(table.pop("kind"))
    devices = np.ma.masked_array(table.pop("device")).compressed()
    blocks = _blocks(path, kinds == _KINDS.index("train"))
    columns = {key: column for key in table if (column := _gaps_for_null(table[key])) is not None}
    if blocks is None or len(columns) < len(table):
        return None
    of = {kind: Columns(kind, {key: columns[key][kinds == number] for key in KEYS[kind]}) for number, kind in enumerate(_KINDS)}
    return Metrics(path, of, str(devices[-1]) if len(devices) else "", blocks)


def _table(path: Path) -> dict[str, NDArray[Any]] | None:
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute("SET enable_progress_bar = false")
        try:
            return dict(database.execute(_query(), [str(path), _KINDS]).fetchnumpy())
        except duckdb.Error:
            return None


def _query() -> str:
    """In file order. The kind is a number, -1 for those that are not read: a million words would be a million objects."""
    keys = sorted({key for keys in KEYS.values() for key in keys})
    types = {"kind": "VARCHAR", "device": "VARCHAR"} | {key: "BOOLEAN" if key in _BOOLEANS else "DOUBLE" for key in keys}
    typed = ", ".join(f"{key}: '{type_}'" for key, type_ in types.items())
    # the words are this file's own: what a user gave is a parameter
    return (
        f"SELECT coalesce(list_position($2, kind), 0)::TINYINT - 1 AS kind, device, {', '.join(keys)} "  # nosec
        f"FROM read_json($1, format = 'newline_delimited', columns = {{{typed}}})"
    )


def _gaps_for_null(column: NDArray[Any]) -> Values | None:
    """None for the word NaN, which is no JSON."""
    if not isinstance(column, np.ma.MaskedArray):
        return None if np.isnan(column).any() else column.astype(np.float64, copy=False)
    values = column.data.astype(np.float64)
    has_word = bool(np.isnan(values[~column.mask]).any())
    values[column.mask] = np.nan
    return None if has_word else values


def _blocks(path: Path, is_train: NDArray[np.bool_]) -> list[Block] | None:
    """None where rows and lines are not as many: blank lines, a torn last one, or one that has come since."""
    blocks, first, offset = [], 0, 0
    for block in blocks_of(path):
        n_lines = int(np.count_nonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")))
        blocks.append(Block(offset, len(block), int(np.count_nonzero(is_train[first : first + n_lines]))))
        first, offset = first + n_lines, offset + len(block)
    return blocks if first == len(is_train) else None
