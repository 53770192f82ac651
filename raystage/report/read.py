"""Reads a metrics.jsonl, whatever its size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raystage.config.errors import ConfigError
from raystage.report.columns import Columns, Metrics
from raystage.report.read_lines import read_lines
from raystage.report.read_table import read_table

_CLOCKS = {
    "train": ("step", "tokens_seen", "flops", "time_s", "stage"),
    "val": ("step", "tokens_seen", "flops", "time_s"),
    "check": ("step",),
}
_LARGE_BYTES = 20_000_000  # below, DuckDB takes longer to be imported than it saves


def read_metrics(path: Path) -> Metrics:
    """Reads the file once; what follows the last newline is not a record yet. Raises ConfigError (file and line) for a broken line."""
    is_large = path.is_file() and path.stat().st_size > _LARGE_BYTES
    metrics = (read_table(path) if is_large else None) or read_lines(path)
    for kind, keys in _CLOCKS.items():
        _demand(metrics.of[kind], keys, path)
    return metrics


def _demand(columns: Columns, keys: Sequence[str], path: Path) -> None:
    for key in keys:
        missing = np.flatnonzero(np.isnan(columns[key]))
        if len(missing):
            raise ConfigError(f"{path}: the {columns.kind} record number {missing[0] + 1} has no {key}; mend or delete its line")
