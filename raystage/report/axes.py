"""One panel at a time: losses over an x axis, slopes over tokens, with every decision and stage marked."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from raystage.report import style
from raystage.report.curves import by_stage, raw, smoothed, thinned, values
from raystage.report.marks import MAX_LABELS, mark_decisions, shade_stages
from raystage.report.run import Run
from raystage.tracking import units


@dataclasses.dataclass(frozen=True)
class XAxis:
    key: str
    label: str
    is_log: bool = False


TOKENS = XAxis("tokens_seen", "tokens seen")
FLOPS = XAxis("flops", "compute [FLOPs]", is_log=True)
TIME = XAxis("time_s", "training time")


def draw_losses(axes: Axes, runs: Sequence[Run], x_axis: XAxis) -> None:
    """Training loss (each step faint, its running mean strong) and validation loss."""
    for index, run in enumerate(runs):
        _draw_run(axes, run, x_axis, *_colours(index, len(runs)), label=run.name if len(runs) > 1 else None)
    if len(runs) > 1:
        axes.plot([], [], linestyle="none", marker="o", markersize=2.5, color=style.MUTED, label="validation, full length")
    _scale_x(axes, runs, x_axis)
    _scale_loss(axes, runs)
    _mark(axes, runs, x_axis)
    axes.legend(loc="lower left" if x_axis.is_log else "upper right")


_USUAL_THRESHOLD = -0.1  # scales the axis where no stage waits for a slope


def draw_slopes(axes: Axes, runs: Sequence[Run]) -> None:
    """Each check's slope against the threshold of its stage. Checks that fired are filled."""
    for index, run in enumerate(runs):
        colour, _, dash = _colours(index, len(runs))
        if has_slopes([run]):
            _draw_checks(axes, run, colour, dash, run.name if len(runs) > 1 else None)
    _scale_x(axes, runs, TOKENS)
    _scale_slope(axes, runs)
    _mark(axes, runs, TOKENS)
    axes.legend(loc="lower right")


def has_slopes(runs: Sequence[Run]) -> bool:
    """Whether any check of any run knows its slope."""
    return any(check["slope"] is not None for run in runs for check in run.records.checks)


def _colours(index: int, n_runs: int) -> tuple[str, str, str]:
    if n_runs == 1:
        return style.TRAIN, style.VALIDATION, "-"
    colour, dash = style.run_style(index)
    return colour, colour, dash


def _draw_run(axes: Axes, run: Run, x_axis: XAxis, colour: str, val_colour: str, dash: str, label: str | None) -> None:
    train, val = run.records.train, run.records.val
    x, loss = values(train, x_axis.key), values(train, "loss")
    every = raw(x, loss)
    mean = smoothed(x, loss, values(train, "stage"))
    axes.plot(every.x, every.y, color=colour, alpha=0.22 if label is None else 0.1, linewidth=0.7)
    axes.plot(mean.x, mean.y, color=colour, linestyle=dash, linewidth=1.6, label=label or "training")
    points = raw(values(val, x_axis.key), values(val, "val_loss"))
    name = "validation, full length" if label is None else None
    line = "-" if label is None else "none"
    axes.plot(points.x, points.y, color=val_colour, linestyle=line, linewidth=1.0, marker="o", markersize=2.5, label=name)


def _scale_x(axes: Axes, runs: Sequence[Run], x_axis: XAxis) -> None:
    high = max(run.records.train[-1][x_axis.key] for run in runs)
    axes.set_xlabel(x_axis.label)
    if x_axis.is_log:
        axes.set_xscale("log")
        axes.set_xlim(min(run.records.train[0][x_axis.key] for run in runs) / 1.3, 1.3 * high)
        axes.xaxis.set_minor_locator(NullLocator())
        return
    axes.set_xlim(0, 1.01 * high)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if x_axis is TIME:
        _scale_time(axes, high)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))


def _scale_time(axes: Axes, high_s: float) -> None:
    size_s, unit = (3600, "h") if high_s >= 7200 else (60, "min") if high_s >= 120 else (1, "s")
    axes.set_xlabel(f"{TIME.label} [{unit}]")
    axes.xaxis.set_major_locator(FixedLocator([size_s * tick for tick in MaxNLocator(6).tick_values(0, high_s / size_s)]))
    axes.set_xlim(0, 1.01 * high_s)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size_s:g}"))


def _scale_loss(axes: Axes, runs: Sequence[Run]) -> None:
    axes.set_ylabel("loss [nats a token]")
    finite = np.concatenate([np.concatenate([values(run.records.train, "loss"), values(run.records.val, "val_loss")]) for run in runs])
    finite = finite[np.isfinite(finite) & (finite > 0)]
    if len(finite):
        axes.set_yscale("log")
        low, high = 0.97 * float(finite.min()), 1.03 * float(finite.max())
        axes.yaxis.set_major_locator(FixedLocator(_loss_ticks(low, high)))
        axes.set_ylim(low, high)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _loss_ticks(low: float, high: float) -> list[float]:
    """Round numbers that lie about evenly on a logarithmic axis."""
    if high / low < 1.8:
        return list(MaxNLocator(6).tick_values(low, high))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8) if high / low < 5 else (1, 2, 3, 5, 8)
    return [step * 10.0**decade for decade in decades for step in steps]


def _draw_checks(axes: Axes, run: Run, colour: str, dash: str, name: str | None) -> None:
    """With a name (several runs) the slope alone is drawn, in the run's colour."""
    checks = [check for check in run.records.checks if check["slope"] is not None]
    checks = [checks[i] for i in thinned(values(checks, "slope"))]
    x, stage = values(checks, "tokens_seen"), values(checks, "stage")
    slope = by_stage(x, values(checks, "slope"), stage)
    axes.plot(slope.x, slope.y, color=colour, linestyle=dash, linewidth=1.4, marker="o", markersize=2.5, label=name or "slope")
    if name is None:
        bound = by_stage(x, values(checks, "slope_bound"), stage)
        axes.plot(bound.x, bound.y, color=colour, alpha=0.5, linewidth=0.9, label="its confident lower bound")
    threshold = by_stage(x, values(checks, "threshold"), stage)
    threshold_colour = style.THRESHOLD if name is None else colour
    axes.plot(threshold.x, threshold.y, color=threshold_colour, linewidth=1.3, linestyle="--", label=None if name else "threshold")
    fired = [check for check in checks if check["fired"]]
    axes.plot(
        values(fired, "tokens_seen"), values(fired, "slope"), "o", color=threshold_colour, markersize=5, label=None if name else "fired"
    )


def _scale_slope(axes: Axes, runs: Sequence[Run]) -> None:
    """From a few thresholds below zero, so that the steep beginning does not flatten the rest."""
    checks = [check for run in runs for check in run.records.checks if check["slope"] is not None]
    thresholds = [check["threshold"] for check in checks if check["threshold"] is not None]
    steepest_threshold = min(thresholds, default=_USUAL_THRESHOLD)
    lowest, highest = min(check["slope"] for check in checks), max(check["slope"] for check in checks)
    axes.set_ylim(max(1.15 * lowest, 4 * steepest_threshold), min(max(0.02, 1.15 * highest), -2 * steepest_threshold))
    axes.set_ylabel("d log loss / d log compute")


def _mark(axes: Axes, runs: Sequence[Run], x_axis: XAxis) -> None:
    if len(runs) == 1:
        shade_stages(axes, runs[0], x_axis.key)
        mark_decisions(axes, runs[0], x_axis.key, style.INK, labelled=True)
        return
    few = sum(len(run.records.decisions) for run in runs) <= MAX_LABELS
    for index, run in enumerate(runs):
        mark_decisions(axes, run, x_axis.key, style.run_style(index)[0], labelled=few)
