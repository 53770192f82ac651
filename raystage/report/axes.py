"""The axes of a panel: limits, ticks and their words, set before anything is drawn."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from raystage.report.columns import Values
from raystage.report.panels import TIME, Panel, XAxis
from raystage.report.series import Series
from raystage.tracking import units

_USUAL_THRESHOLD = -0.1  # scales the axis where no stage waits for a slope


def scale(axes: Axes, panel: Panel, shown: Sequence[tuple[int, str, Series]]) -> None:
    """Sets both axes for what a panel shows and fixes them."""
    axes.set_ylabel(panel.y.label)
    values = {name: _together([series.y for _, other, series in shown if other == name]) for _, name, _ in shown}
    everything = _together(list(values.values()))
    if panel.y.kind == "slope":
        axes.set_ylim(*_slope_limits(values["slope"], values.get("threshold", np.empty(0))))
    elif panel.y.kind == "log":
        _scale_log(axes, np.append(everything, panel.level or []), _highest(values, shown))
    else:
        _scale_from_zero(axes, everything, panel.y.kind == "share")
    low, high = axes.get_ylim()
    inside = [series.at[panel.x.key][(low <= series.y) & (series.y <= high)] for _, _, series in shown]
    scale_x(axes, panel.x, inside if any(len(xs) for xs in inside) else [series.at[panel.x.key] for _, _, series in shown])
    axes.set_autoscale_on(False)


def scale_x(axes: Axes, x_axis: XAxis, xs: Sequence[Values]) -> None:
    """The x axis over all of these."""
    known = _together(xs)
    high = float(known.max())
    axes.set_xlabel(x_axis.label)
    if x_axis.is_log:
        axes.set_xscale("log")
        low = float(known[known > 0].min(initial=high))
        axes.set_xlim(low / 1.3, 1.3 * high)
        axes.xaxis.set_major_locator(FixedLocator(_log_ticks(low / 1.3, 1.3 * high)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
        return
    axes.set_xlim(0, 1.01 * high)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if x_axis == TIME:
        _scale_time(axes, high)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))


def _together(values: Sequence[Values]) -> Values:
    everything = np.concatenate([*values, np.empty(0)])
    return everything[np.isfinite(everything)]


def _power(value: float) -> str:
    mantissa, exponent = f"{value:.3g}" if value < 1e3 else "", f"{value:.2e}"
    if mantissa:
        return mantissa
    digits, _, power = exponent.partition("e")
    return f"{float(digits):g}e{int(power)}"


def _scale_time(axes: Axes, high_s: float) -> None:
    size_s, unit = (3600, "h") if high_s >= 7200 else (60, "min") if high_s >= 120 else (1, "s")
    axes.set_xlabel(f"{TIME.label} [{unit}]")
    axes.xaxis.set_major_locator(FixedLocator([size_s * tick for tick in MaxNLocator(5).tick_values(0, high_s / size_s)]))
    axes.set_xlim(0, 1.01 * high_s if high_s > 0 else 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size_s:g}"))


def _highest(values: dict[str, Values], shown: Sequence[tuple[int, str, Series]]) -> float:
    """Of several runs no loss above the validation losses is shown: the first steps would flatten what sets the runs apart."""
    is_many = len({index for index, _, _ in shown}) > 1
    return float(values["val_loss"].max()) if is_many and "val_loss" in values else math.inf


def _scale_log(axes: Axes, values: Values, highest: float) -> None:
    positive = values[values > 0]
    if not len(positive):
        return
    axes.set_yscale("log")
    low, high = 0.97 * float(positive.min()), 1.03 * min(highest, float(positive.max()))
    axes.yaxis.set_major_locator(FixedLocator(_log_ticks(low, high)))
    axes.set_ylim(low, high)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers that lie about evenly on a logarithmic axis."""
    spread = high / low
    if spread < 1.8:
        return list(MaxNLocator(6).tick_values(low, high))
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if spread > 300:
        return [10.0**decade for decade in range(first, last + 1, max(1, (last - first) // 6))]
    steps = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8) if spread < 5 else (1, 2, 3, 5, 8) if spread < 30 else (1, 3)
    return [step * 10.0**decade for decade in range(first, last + 1) for step in steps]


def _scale_from_zero(axes: Axes, values: Values, is_share: bool) -> None:
    axes.set_ylim(0, 1.08 * float(values.max(initial=0)) or 1)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %" if is_share else units.count(value)))


def _slope_limits(slope: Values, threshold: Values) -> tuple[float, float]:
    """From a few thresholds below zero, so that the steep beginning does not flatten the rest."""
    steepest = float(threshold.min(initial=0)) or _USUAL_THRESHOLD
    lowest, highest = float(slope.min()), float(slope.max())
    return max(min(1.15 * lowest, 1.15 * steepest), 4 * steepest), min(max(0.02, 1.15 * highest), -2 * steepest)
