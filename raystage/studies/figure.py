"""The picture of a study: validation losses over compute or tokens, and where every arm ends."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from raystage.config.study import Study
from raystage.report import style
from raystage.studies.equal_loss import Curve, smoothed
from raystage.studies.measured import Measured
from raystage.studies.results import ArmResult, Runs
from raystage.studies.runs import Losses, counted_runs

_LABELS = {"flops": "compute [FLOPs]", "tokens_seen": "tokens seen"}
_LOWEST_SHARE = 0.15  # of the longest run: before, all curves fall steeply and the differences are not to be seen
_LEAST_ARROW = 0.03  # of the baseline's compute: a shorter one would lie under the points


@dataclasses.dataclass(frozen=True)
class _Look:
    """Of an arm's lines and points. `label`: None of one that has no line of its own in the legend."""

    colour: str
    dash: style.Dash
    marker: str
    label: str | None


def _looks(study: Study) -> dict[str, _Look]:
    """The baseline dark, its other budgets pale and named once, a colour for each of the others."""
    others = [arm.name for arm in study.arms if arm.name != study.keys.baseline and arm.name not in study.ends]
    looks = {name: _Look(*style.run_style(index), style.run_marker(index), name) for index, name in enumerate(others)}
    budgets = [name for name in study.ends if name != study.keys.baseline]
    looks |= {name: _Look(style.MUTED, ":", ".", None if n else f"{study.keys.baseline}, other budgets") for n, name in enumerate(budgets)}
    return {study.keys.baseline: _Look(style.INK, "-", "o", study.keys.baseline), **looks}


def save_figure(study: Study, losses: Losses, measured: Runs, results: Sequence[ArmResult], path: Path) -> None:
    """One PNG of two panels."""
    own = {arm.name: [measured[run] for run in counted_runs(study, arm.name, losses) if losses[run] is not None] for arm in study.arms}
    with style.applied():
        figure = Figure(figsize=(11, 4.6), dpi=150, layout="constrained", facecolor="white")
        curves, ends = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_curves(curves, study, own)
        _draw_ends(ends, study, own)
        _draw_savings(ends, study, results)
        handles = [
            Line2D([], [], color=look.colour, linestyle=look.dash, marker=look.marker, label=look.label)
            for name, look in _looks(study).items()
            if own[name] and look.label
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, max(1, len(handles))), handlelength=3.5)
        figure.savefig(path, metadata={"Software": None})


def _draw_curves(axes: Axes, study: Study, own: Mapping[str, Sequence[Measured]]) -> None:
    x_key, last, looks = study.keys.axis, 0.0, _looks(study)
    shown: dict[str, list[Curve]] = {}
    for name, runs in own.items():
        look = looks[name]
        curves = [smoothed(Curve(val[x_key], val["val_loss"])) for val in (run.digest.val.known("val_loss") for run in runs)]
        for curve in curves:
            axes.plot(curve.x, curve.losses, color=look.colour, linestyle=look.dash, linewidth=1.1, alpha=0.75)
            last = max(last, float(curve.x[-1]))
            shown.setdefault(name, []).append(curve)
    axes.set_title("Validation loss, a line a seed (each point over five validations)")
    axes.set_xlabel(_LABELS[x_key])
    axes.set_ylabel("validation loss [nats a token]")
    if shown:
        late = {
            name: [loss for curve in curves for loss in curve.losses[curve.x >= _LOWEST_SHARE * last]] for name, curves in shown.items()
        }
        everywhere = [loss for losses in late.values() for loss in losses]
        axes.set_xlim(_LOWEST_SHARE * last, 1.02 * last)
        # an arm that is far above at first, as short sequences are at full context, would press the others together
        axes.set_ylim(0.995 * min(everywhere), 1.01 * max(late.get(study.keys.baseline) or everywhere))


def _draw_ends(axes: Axes, study: Study, own: Mapping[str, Sequence[Measured]]) -> None:
    looks = _looks(study)
    for name, look in looks.items():
        if runs := own[name]:
            flops, losses = [run.flops for run in runs], [run.final_loss for run in runs]
            axes.plot(flops, losses, ".", color=look.colour, markersize=4, alpha=0.6)
            axes.errorbar(
                np.mean(flops),
                np.mean(losses),
                yerr=np.std(losses, ddof=1) if len(losses) > 1 else None,
                color=look.colour,
                marker=look.marker,
                markersize=6,
                capsize=3,
                linestyle="none",
            )
    reference = [own[name] for name in study.ends if own[name]]
    if len(reference) > 1:
        points = sorted((np.mean([run.flops for run in runs]), np.mean([run.final_loss for run in runs])) for runs in reference)
        flops, losses = np.log(points).T
        between = np.linspace(flops[0], flops[-1], 100)  # as equal loss is read: straight in the logarithms
        axes.plot(np.exp(between), np.exp(np.interp(between, flops, losses)), color=style.MUTED, linewidth=1.0, zorder=0)
    axes.set_title("Where each ends: mean and deviation over seeds")
    axes.set_xlabel(_LABELS["flops"])


def _draw_savings(axes: Axes, study: Study, results: Sequence[ArmResult]) -> None:
    """From where an arm ends to what the baseline takes for its loss, where that is known of every seed."""
    for result in results:
        saved = result.saved[0] if study.ends and result.saved and not result.is_variant else None
        if saved is None or saved.bound or result.loss is None or result.flops is None or saved.spread.mean < _LEAST_ARROW:
            continue
        begin, end = (result.flops.mean, result.loss.mean), (result.flops.mean / (1 - saved.spread.mean), result.loss.mean)
        axes.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": style.MUTED, "linewidth": 1.0, "shrinkA": 6, "shrinkB": 0})
        axes.annotate(
            f"{saved.spread.mean:.0%} less", ((begin[0] * end[0]) ** 0.5, begin[1]), xytext=(0, 3), textcoords="offset points", ha="center"
        )
