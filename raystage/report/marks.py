"""Decisions and stages on an x axis: bands, vertical lines, slanted labels above the axes that do not overlap."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from raystage.report import style
from raystage.report.run import Run
from raystage.report.stages import stages_of
from raystage.tracking.decision_text import label
from raystage.tracking.records import Record

MAX_LABELS = 16
_LABEL_GAP = 0.05  # of the axes' width


def shade_stages(axes: Axes, run: Run, x_key: str) -> None:
    """Every other stage gets a grey band."""
    ends = {record["step"]: record[x_key] for record in run.records.train}
    for stage in stages_of(run.records)[1::2]:
        axes.axvspan(ends[stage.first_step], ends[stage.last_step], color=style.BAND, linewidth=0, zorder=-2)


def mark_decisions(axes: Axes, run: Run, x_key: str, colour: str, labelled: bool) -> None:
    """A line a decision, dotted if it was refused; labels if there are at most 16."""
    decisions = run.records.decisions
    places = [_x_at(run.records.train, decision, x_key) for decision in decisions]
    for x, decision in zip(places, decisions, strict=True):
        dash = ":" if decision["outcome"] == "refused" else "-"
        axes.axvline(x, color=colour, linewidth=0.8, linestyle=dash, alpha=0.55, zorder=-1)
    if not labelled or len(decisions) > MAX_LABELS:
        return
    to_share = (axes.transData + axes.transAxes.inverted()).transform
    shares = [float(to_share((x, 1.0))[0]) for x in places]
    for x, share, decision in zip(places, spread(shares, _LABEL_GAP), decisions, strict=True):
        label_above(axes, x, share, label(decision), colour)


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
        rotation=38,
        rotation_mode="anchor",
        fontsize=8,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.55, "shrinkA": 0, "shrinkB": 0},
    )


def _x_at(train: Sequence[Record], decision: Record, x_key: str) -> float:
    """Where on the axis its effective step lies."""
    steps = [record["step"] for record in train]
    return float(np.interp(decision["effective_step"], steps, [record[x_key] for record in train]))
