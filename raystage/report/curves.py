"""Curves small enough to draw: which records of a million are drawn, and running means inside a stage."""

import dataclasses
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from raystage.report.columns import Values

Positions = NDArray[np.int64]
Gaps = NDArray[np.bool_]
MAX_POINTS = 800  # a panel is some 400 pixels wide
_WINDOWS_A_STAGE = 25


@dataclasses.dataclass(frozen=True)
class Curve:
    x: Values
    y: Values


def raw(x: Values, y: Values, max_points: int = MAX_POINTS) -> Curve:
    """The curve itself, or the smallest and the largest value of each of `max_points / 2` bins: spikes stay visible."""
    picked = thinned(y, max_points)
    return Curve(x[picked], y[picked])


def thinned(y: Values, max_points: int = MAX_POINTS) -> Positions:
    """The positions that `raw` keeps: the first, the last, and the extremes of each bin."""
    if len(y) <= max_points:
        return np.arange(len(y))
    edges = np.linspace(0, len(y), max_points // 2).astype(int)
    inner = [i for low, high in pairwise(edges) for i in _extremes(y, int(low), int(high))]
    return np.unique([0, *inner, len(y) - 1])


def peak_positions(y: Values, n_bins: int) -> Positions:
    """Where the largest value of each bin is; a bin without any has none."""
    edges = np.linspace(0, len(y), min(n_bins, len(y)) + 1).astype(int)
    return np.array(
        [low + int(np.nanargmax(y[low:high])) for low, high in pairwise(edges) if np.isfinite(y[low:high]).any()], dtype=np.int64
    )


def broken(positions: Positions, stage: Values) -> tuple[Positions, Gaps]:
    """The positions with one more, a gap, wherever the stage changes; and which of them are gaps."""
    borders = np.flatnonzero(np.diff(stage[positions])) + 1
    gaps = np.insert(np.zeros(len(positions), dtype=bool), borders, True)
    return np.insert(positions, borders, positions[borders]), gaps


def running_means(y: Values, stage: Values, max_points: int = MAX_POINTS) -> tuple[Positions, Values]:
    """Positions, and centred running means over a 25th of each stage, never across its border, where nan breaks the line."""
    borders = [0, *(np.flatnonzero(np.diff(stage)) + 1), len(y)]
    positions, means = [], []
    for low, high in pairwise(borders):
        share = max(2, round((max_points - len(borders)) * (high - low) / len(y)))
        picked = np.unique(np.linspace(low, high - 1, min(share, high - low)).astype(int))
        positions.append(np.append(picked, high - 1))
        means.append(np.append(_running_mean(y[low:high])[picked - low], np.nan))
    return np.concatenate(positions), np.concatenate(means)


def _extremes(y: Values, low: int, high: int) -> list[int]:
    known = np.flatnonzero(np.isfinite(y[low:high]))
    if not len(known):
        return [low]
    part = y[low:high][known]
    return sorted({low + int(known[part.argmin()]), low + int(known[part.argmax()])})


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
