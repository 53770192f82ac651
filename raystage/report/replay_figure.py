"""The picture of `raystage replay`: a loss curve on log-log axes with each trigger marked, or two curves with their growth point."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from raystage.report import style
from raystage.report.curves import raw
from raystage.report.marks import label_above, spread
from raystage.tracking import units

Array = NDArray[np.float64]
_DPI = 160
_INCHES = (6.4, 4.4)
_LABEL_GAP = 0.055  # of the axes' width
_BINS_A_STAGE = 80  # equally wide on the axis: a running mean over steps would bend the steep beginning


@dataclasses.dataclass(frozen=True)
class DrawnCurve:
    """x (tokens or FLOPs), loss and stage, shape (n,) each; `law`: the loss of a fitted law at `law_x`."""

    name: str
    x: Array
    loss: Array
    stage: Array
    law_x: Array | None = None
    law: Array | None = None


@dataclasses.dataclass(frozen=True)
class Mark:
    """A trigger or growth point on the curve, with its words."""

    x: float
    loss: float
    label: str


def save_replay(path: Path, curves: list[DrawnCurve], marks: list[Mark], x_label: str) -> None:
    """Writes the picture as PNG; each step faint, its running mean strong, the law dashed."""
    with style.applied():
        figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained", facecolor="white")
        axes = figure.subplots()
        for index, curve in enumerate(curves):
            _draw(axes, curve, style.run_style(index)[0])
        _scale(axes, curves, x_label)
        _mark(axes, marks)
        axes.legend(loc="lower left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})


def _draw(axes: Axes, curve: DrawnCurve, colour: str) -> None:
    every = raw(curve.x, curve.loss)
    axes.plot(every.x, every.y, color=colour, alpha=0.22, linewidth=0.7)
    axes.plot(*_log_means(curve), color=colour, linewidth=1.6, label=curve.name)
    if curve.law_x is not None and curve.law is not None:
        axes.plot(curve.law_x, curve.law, color=style.INK, linewidth=1.0, linestyle="--", label=f"{curve.name}, its law")


def _log_means(curve: DrawnCurve) -> tuple[Array, Array]:
    """Means over bins equally wide in log x, a gap (nan) between stages."""
    xs: list[Array] = []
    means: list[Array] = []
    for stage in np.unique(curve.stage):
        x, loss = curve.x[curve.stage == stage], curve.loss[curve.stage == stage]
        edges = np.geomspace(x[0], x[-1], _BINS_A_STAGE + 1)[1:-1]
        starts = np.array([0, *(np.flatnonzero(np.diff(np.searchsorted(edges, x))) + 1)])
        sizes = np.diff([*starts, len(x)])
        xs += [np.add.reduceat(x, starts) / sizes, np.array([np.nan])]
        means += [np.add.reduceat(loss, starts) / sizes, np.array([np.nan])]
    return np.concatenate(xs), np.concatenate(means)


def _scale(axes: Axes, curves: list[DrawnCurve], x_label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel("loss [nats a token]")
    losses, x = np.concatenate([c.loss for c in curves]), np.concatenate([c.x for c in curves])
    axes.set_ylim(0.97 * float(losses.min()), 1.03 * float(losses.max()))
    axes.set_xlim(float(x.min()) / 1.2, 1.2 * float(x.max()))
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(6) if high / low < 4 else LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if math.log10(x.max()) < 14:  # tokens; FLOPs stay powers of ten
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))


def _mark(axes: Axes, marks: list[Mark]) -> None:
    to_share = (axes.transData + axes.transAxes.inverted()).transform
    shares = [float(to_share((mark.x, mark.loss))[0]) for mark in marks]
    for mark, share in zip(marks, spread(shares, _LABEL_GAP), strict=True):
        axes.axvline(mark.x, color=style.INK, linewidth=0.8, alpha=0.45, zorder=-1)
        axes.plot([mark.x], [mark.loss], "o", color=style.THRESHOLD, markersize=4.5)
        label_above(axes, mark.x, share, mark.label, style.INK)
