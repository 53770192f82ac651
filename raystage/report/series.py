"""A series: what is drawn of one key of one run's records, and how many records it stands for."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from raystage.report.columns import Columns, Values
from raystage.report.curves import MAX_POINTS, Positions, broken, peak_positions, running_means, thinned
from raystage.tracking.records import DECISIONS_FILE, METRICS_FILE, Record

_THINNED = "every record, or the first, the last, and the smallest and the largest of each bin"
_RATIO = "over the smallest loss before"
_PEAKS = "the largest of each 60th of the records"
N_PEAKS = 60


@dataclasses.dataclass(frozen=True)
class Series:
    """`at`: step, tokens_seen and, where the records have them, flops and time_s of each point; `y` is nan in a gap.

    `n_records` there are of the kind, `n_values` of them with a value of the key.
    `is_smooth`: a point stands for the steps around it, not for its own alone.
    """

    kind: str
    key: str
    how: str
    n_records: int
    n_values: int
    at: Mapping[str, Values]
    y: Values
    is_smooth: bool = False
    file: str = METRICS_FILE

    @property
    def is_empty(self) -> bool:
        return not bool(np.isfinite(self.y).any())


def recorded(columns: Columns, key: str) -> Series:
    """One key over all records; null, which stands for what is not finite, is a gap."""
    return _series(columns, key, thinned(columns[key]), columns[key])


def where_known(columns: Columns, key: str) -> Series:
    """One key over those records that have a value of it: of what is measured on some steps alone."""
    known = np.flatnonzero(np.isfinite(columns[key]))
    return _series(columns, key, known[thinned(columns[key][known])], columns[key])


def slopes(checks: Columns) -> dict[str, Series]:
    """Slope, bound and threshold of the checks that know their slope, each with a gap where the stage changes; and those that fired."""
    is_known = np.isfinite(checks["slope"])
    known, fired = np.flatnonzero(is_known), np.flatnonzero(is_known & (checks["fired"] == 1))
    positions, gaps = broken(known[thinned(checks["slope"][known])], checks["stage"])
    found = {}
    for key in ("slope", "slope_bound", "threshold"):
        series = _series(checks, key, positions, np.where(is_known, checks[key], np.nan))
        found[key] = dataclasses.replace(series, y=np.where(gaps, np.nan, series.y))
    y = np.where(checks["fired"] == 1, checks["slope"], np.nan)
    return found | {"fired": _series(checks, "slope", fired[thinned(y[fired])], y, "the checks that fired")}


def running_mean(train: Columns, key: str, max_points: int = MAX_POINTS) -> Series:
    """One key of the training records as a running mean."""
    positions, means = running_means(train[key], train["stage"], max_points)
    series = _series(train, key, positions, train[key], "centred running mean over a 25th of each stage")
    return dataclasses.replace(series, y=means, is_smooth=True)


def peaks(columns: Columns, key: str) -> Series:
    """The largest value of one key in each of some tens of bins: what several noisy curves side by side still show."""
    known = np.flatnonzero(np.isfinite(columns[key]))
    return _series(columns, key, known[peak_positions(columns[key][known], N_PEAKS)], columns[key], _PEAKS)


def ratio_of(train: Columns, ratios: Values) -> Series:
    """The loss ratio, of which there is one for each training record but the first."""
    return _series(train, "loss", thinned(ratios), ratios, f"{_RATIO}; {_THINNED}")


def ratio_peaks(train: Columns, ratios: Values) -> Series:
    """The largest loss ratio in each of some tens of bins."""
    return _series(train, "loss", peak_positions(ratios, N_PEAKS), ratios, f"{_RATIO}; {_PEAKS}")


def _series(columns: Columns, key: str, positions: Positions, y: Values, how: str = _THINNED) -> Series:
    """The points at these positions of `y`, which has a value or nan for each record."""
    at = {name: columns[name][positions] for name in ("step", "tokens_seen", "flops", "time_s") if name in columns.of}
    return Series(columns.kind, key, how, len(columns), int(np.isfinite(y).sum()), at, y[positions])


def decision_series(train: Columns, decisions: Sequence[Record]) -> Series:
    """Where each decision took effect, between the training records around it; y is its effective step."""
    steps = np.array([decision["effective_step"] for decision in decisions], dtype=np.float64)
    at = {key: np.interp(steps, train["step"], train[key]) for key in ("tokens_seen", "flops", "time_s")} | {"step": steps}
    how = "every decision; its place on the axis between the training records around it"
    return Series("decision", "effective_step", how, len(steps), len(steps), at, steps, file=DECISIONS_FILE)
