"""Curves small enough to draw: smoothed inside a stage, thinned to a few thousand points."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from raystage.tracking.records import Record

Values = NDArray[np.float64]
MAX_POINTS = 2000
_WINDOWS_A_STAGE = 25


@dataclasses.dataclass(frozen=True)
class Curve:
    x: Values
    y: Values


def values(records: Sequence[Record], key: str) -> Values:
    """One key of all records; nan for null."""
    return np.array([np.nan if record[key] is None else record[key] for record in records], dtype=np.float64)


def raw(x: Values, y: Values, max_points: int = MAX_POINTS) -> Curve:
    """The curve itself, or the smallest and the largest value of each of `max_points / 2` bins: spikes stay visible."""
    picked = thinned(y, max_points)
    return Curve(x[picked], y[picked])


def thinned(y: Values, max_points: int = MAX_POINTS) -> NDArray[np.int64]:
    """The positions that `raw` keeps."""
    if len(y) <= max_points:
        return np.arange(len(y))
    edges = np.linspace(0, len(y), max_points // 2 + 1).astype(int)
    return np.array([i for low, high in pairwise(edges) for i in _extremes(y, int(low), int(high))])


def by_stage(x: Values, y: Values, stage: Values) -> Curve:
    """The curve with a gap (nan) wherever the stage changes."""
    borders = np.flatnonzero(np.diff(stage)) + 1
    return Curve(np.insert(x, borders, np.nan), np.insert(y, borders, np.nan))


def smoothed(x: Values, y: Values, stage: Values, max_points: int = MAX_POINTS) -> Curve:
    """Centred running means over a 25th of each stage, never across its border (nan there breaks the line)."""
    borders = [0, *(np.flatnonzero(np.diff(stage)) + 1), len(y)]
    xs, ys = [], []
    for low, high in pairwise(borders):
        share = max(2, round((max_points - len(borders)) * (high - low) / len(y)))
        picked = np.unique(np.linspace(low, high - 1, min(share, high - low)).astype(int)) - low
        xs.append(np.append(x[low:high][picked], x[high - 1]))
        ys.append(np.append(_running_mean(y[low:high])[picked], np.nan))
    return Curve(np.concatenate(xs), np.concatenate(ys))


def _extremes(y: Values, low: int, high: int) -> list[int]:
    part = y[low:high]
    if np.isnan(part).all():
        return [low]
    return sorted({low + int(np.nanargmin(part)), low + int(np.nanargmax(part))})


def _running_mean(y: Values) -> Values:
    half = len(y) // _WINDOWS_A_STAGE // 2
    known = ~np.isnan(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    # the window shrinks towards both ends, evenly, so that the first and the last value are not flattened
    reach = np.minimum(half, np.minimum(np.arange(len(y)), np.arange(len(y))[::-1]))
    low, high = np.arange(len(y)) - reach, np.arange(len(y)) + reach + 1
    with np.errstate(invalid="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])
