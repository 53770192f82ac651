"""Decisions, stages and changes of workers on an x axis: bands, vertical lines, rings, slanted labels above that do not overlap."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from raystage.report import style
from raystage.report.columns import Values
from raystage.report.curves import Positions
from raystage.report.digest import Digest, WorkerChange
from raystage.tracking.decision_text import label

MAX_LABELS = 12
_MAX_LABELLED_RUNS = 3
_LABEL_GAP = 0.065  # of the axes' width


def shade_stages(axes: Axes, run: Digest, x_key: str) -> None:
    """Every other stage gets a grey band."""
    for stage in run.stages[1::2]:
        axes.axvspan(stage.begin[x_key], stage.end[x_key], color=style.BAND, linewidth=0, zorder=-2)


def are_labelled(runs: Sequence[Digest]) -> bool:
    """Whether the decisions are few enough for words."""
    return len(runs) <= _MAX_LABELLED_RUNS and sum(len(run.decisions) for run in runs) <= MAX_LABELS


def mark_decisions(axes: Axes, run: Digest, x_key: str, colour: str, gid: str) -> Positions:
    """A line a decision, dotted if it was refused; returns which ones lie within the axes."""
    places, inside = _places(axes, run, x_key)
    dashes: Any = [":" if decision["outcome"] == "refused" else "-" for decision, shown in zip(run.decisions, inside, strict=True) if shown]
    axes.vlines(
        places, 0, 1, transform=axes.get_xaxis_transform(), colors=colour, linewidth=0.8, linestyles=dashes, alpha=0.6, zorder=-1, gid=gid
    )
    return np.flatnonzero(inside)


def label_decisions(axes: Axes, runs: Sequence[Digest], x_key: str, colours: Sequence[str]) -> None:
    """The words of all decisions of all runs, above the plot."""
    words = []
    for run, colour in zip(runs, colours, strict=True):
        places, inside = _places(axes, run, x_key)
        shown = [decision for decision, is_inside in zip(run.decisions, inside, strict=True) if is_inside]
        words += [(x, label(decision), colour) for x, decision in zip(places, shown, strict=True)]
    _label_all(axes, words)


def ring_decisions(axes: Axes, run: Digest, x_key: str, colour: str, gid: str) -> Positions:
    """A ring a decision on the line of the training loss: vertical lines of many runs would hide the curves. Returns which are seen."""
    mean, (places, inside) = run.series["mean_loss"], _places(axes, run, x_key)
    known = np.isfinite(mean.y)
    heights = np.interp(places, mean.at[x_key][known], mean.y[known])
    low, high = axes.get_ylim()
    seen = (low <= heights) & (heights <= high)
    axes.plot(places[seen], heights[seen], "o", color=colour, markersize=7, markerfacecolor="none", markeredgewidth=0.9, gid=gid)
    return np.flatnonzero(inside)[seen]


def mark_workers(axes: Axes, changes: Sequence[WorkerChange]) -> None:
    """A line where the number of workers changed, with both numbers if there are few."""
    places = np.array([change.tokens_seen for change in changes])
    axes.vlines(places, 0, 1, transform=axes.get_xaxis_transform(), colors=style.INK, linewidth=0.8, linestyles="--", alpha=0.6, zorder=-1)
    if len(changes) <= MAX_LABELS:
        _label_all(axes, [(change.tokens_seen, f"{change.before}→{change.after} workers", style.INK) for change in changes])


def spread(shares: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, in order, moved as little to the right as that takes and back from beyond 1."""
    order = np.argsort(shares, kind="stable")
    placed: list[float] = []
    for i in order:
        placed.append(max(shares[i], placed[-1] + gap) if placed else shares[i])
    limit = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    result = [0.0] * len(placed)
    for i, value in zip(order, placed, strict=True):
        result[i] = value
    return result


def label_above(axes: Axes, x: float, share: float, text: str, colour: str) -> None:
    """`text` above the plot at `share` of its width, with a line to `x` on its upper edge."""
    axes.annotate(
        text,
        xy=(x, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(share, 1.035),
        textcoords="axes fraction",
        rotation=42,
        rotation_mode="anchor",
        fontsize=8,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.55, "shrinkA": 0, "shrinkB": 0},
    )


def _label_all(axes: Axes, words: Sequence[tuple[float, str, str]]) -> None:
    """Each: x, text, colour."""
    to_share = (axes.transData + axes.transAxes.inverted()).transform
    shares = [float(to_share((x, axes.get_ylim()[1]))[0]) for x, _, _ in words]
    for (x, text, colour), share in zip(words, spread(shares, _LABEL_GAP), strict=True):
        label_above(axes, x, share, text, colour)


def _places(axes: Axes, run: Digest, x_key: str) -> tuple[Values, NDArray[np.bool_]]:
    """Where the decisions within the axes are, and which they are."""
    series = run.series.get("decisions")
    places = np.empty(0) if series is None else series.at[x_key]
    left, right = axes.get_xlim()
    inside = (left <= places) & (places <= right)
    return places[inside], inside
