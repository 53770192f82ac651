"""The picture of a study: validation losses over compute or tokens; and where every arm ends, or how far from the baseline."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from raystage.config.study import Study
from raystage.report import style
from raystage.studies.equal_loss import Curve, smoothed
from raystage.studies.measured import Measured
from raystage.studies.results import ArmResult, Runs
from raystage.studies.runs import Losses, counted_runs

Array = NDArray[np.float64]
_LOWEST_SHARE = 0.15  # of the longest run: before, all curves fall steeply and the differences are not to be seen
_LEAST_SAVING = 0.03  # of the baseline's compute: the arrow of a smaller one would lie under the points
_MOST_ARMS = 7  # whose seeds can have a line each
_POINTS = 200  # of a mean line
_LINE = 0.055  # of the height: what a line of words takes


@dataclasses.dataclass(frozen=True)
class _Look:
    """Of an arm's lines and points. `label`: None of one that has no line of its own in the legend."""

    colour: str
    dash: style.Dash
    marker: str
    label: str | None


@dataclasses.dataclass(frozen=True)
class _Compute:
    """How FLOPs are shown: times `scale`."""

    scale: float
    label: str


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
        compute = _compute_of(study, own)
        _draw_curves(curves, study, own, compute)
        if study.ends:
            _draw_ends(ends, study, own, compute)
            _draw_savings(ends, results, compute, _looks(study))
        else:
            _draw_differences(ends, study, results)
        handles = [
            Line2D([], [], color=look.colour, linestyle=look.dash, marker=look.marker, label=look.label)
            for name, look in _looks(study).items()
            if own[name] and look.label
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, max(1, len(handles))), handlelength=3.5)
        figure.savefig(path, metadata={"Software": None})


def _compute_of(study: Study, own: Mapping[str, Sequence[Measured]]) -> _Compute:
    """In percent of what the baseline takes; in FLOPs while that has not ended."""
    baseline = own[study.keys.baseline]
    if not baseline:
        return _Compute(1.0, "compute [FLOPs]")
    whole = float(np.mean([run.flops for run in baseline]))
    return _Compute(100 / whole, f"compute [% of {study.keys.baseline}'s {whole:.3g} FLOPs]")


def _draw_curves(axes: Axes, study: Study, own: Mapping[str, Sequence[Measured]], compute: _Compute) -> None:
    x_key, last, looks = study.keys.axis, 0.0, _looks(study)
    scale, label = (compute.scale, compute.label) if x_key == "flops" else (1.0, "tokens seen")
    shown: dict[str, list[Curve]] = {}
    is_crowded = len(own) > _MOST_ARMS
    for name, runs in own.items():
        look = looks[name]
        curves = [smoothed(Curve(scale * val[x_key], val["val_loss"])) for val in (run.digest.val.known("val_loss") for run in runs)]
        if curves:
            shown[name] = curves
            last = max(last, *(float(curve.x[-1]) for curve in curves))
        for x, losses in _lines(curves, is_crowded):
            axes.plot(x, losses.mean(axis=0), color=look.colour, linestyle=look.dash, linewidth=1.1, alpha=0.75)
            axes.fill_between(x, losses.min(axis=0), losses.max(axis=0), color=look.colour, alpha=0.12, linewidth=0)
    each = "mean and range over seeds" if is_crowded else "a line a seed"
    axes.set_title(f"Validation loss, {each} (over five validations)")
    axes.set_xlabel(label)
    axes.set_ylabel("validation loss [nats a token]")
    if shown:
        late = {
            name: [loss for curve in curves for loss in curve.losses[curve.x >= _LOWEST_SHARE * last]] for name, curves in shown.items()
        }
        everywhere = [loss for losses in late.values() for loss in losses]
        axes.set_xlim(_LOWEST_SHARE * last, 1.02 * last)
        # an arm that is far above at first, as short sequences are at full context, would press the others together
        axes.set_ylim(0.995 * min(everywhere), 1.01 * max(late.get(study.keys.baseline) or everywhere))


def _lines(curves: Sequence[Curve], is_crowded: bool) -> Iterator[tuple[Array, Array]]:
    """Places (n,) and losses there (lines, n): each curve by itself, or all of them together as far as they all go."""
    if not is_crowded:
        yield from ((curve.x, curve.losses[None]) for curve in curves)
    elif curves:
        x = np.linspace(max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves), _POINTS)
        yield x, np.stack([np.interp(x, curve.x, curve.losses) for curve in curves])


def _draw_differences(axes: Axes, study: Study, results: Sequence[ArmResult]) -> None:
    """Where no other budget tells what a loss is worth: each arm's last loss less the baseline's, with its 95% interval."""
    looks = _looks(study)
    known = [(result, result.difference) for result in results if result.difference is not None and result.name != study.keys.baseline]
    for place, (result, difference) in enumerate(known):
        look = looks[result.name]
        axes.errorbar(difference.mean, place, xerr=difference.half_interval, color=look.colour, marker=look.marker, markersize=6, capsize=3)
        axes.plot(difference.values, [place] * len(difference.values), ".", color=look.colour, markersize=4, alpha=0.6)
    axes.axvline(0, color=style.INK, linewidth=1.0, zorder=0)
    words = [result.name + (f" ({result.share.mean:.0%})" if result.share else "") for result, _ in known]
    axes.set_yticks(range(len(known)), words)
    axes.invert_yaxis()
    axes.set_title(f"Last loss less {study.keys.baseline}'s, 95% intervals")
    axes.set_xlabel("[nats a token]; in brackets: share of the FLOPs")


def _draw_ends(axes: Axes, study: Study, own: Mapping[str, Sequence[Measured]], compute: _Compute) -> None:
    looks = _looks(study)
    for name, look in looks.items():
        if runs := own[name]:
            flops, losses = [compute.scale * run.flops for run in runs], [run.final_loss for run in runs]
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
        points = sorted(
            (compute.scale * np.mean([run.flops for run in runs]), np.mean([run.final_loss for run in runs])) for runs in reference
        )
        flops, losses = np.log(points).T
        between = np.linspace(flops[0], flops[-1], 100)  # as equal loss is read: straight in the logarithms
        axes.plot(np.exp(between), np.exp(np.interp(between, flops, losses)), color=style.MUTED, linewidth=1.0, zorder=0)
    axes.set_title("Where each ends: mean and deviation over seeds")
    axes.set_xlabel(compute.label)


def _draw_savings(axes: Axes, results: Sequence[ArmResult], compute: _Compute, looks: Mapping[str, _Look]) -> None:
    """From where an arm ends to what the baseline takes for its loss, where that is known of every seed; and how much less that is, in
    the corner where no arm ends that is worth its compute."""
    corner = functools.partial(axes.text, 0.98, transform=axes.transAxes, ha="right", va="top")
    known = [(each.saved[0], each) for each in results if each.saved and not each.is_variant]
    shown = [(saved, result) for saved, result in known if saved.bound != "at most" and saved.spread.mean >= _LEAST_SAVING]
    for line, (saved, result) in enumerate(sorted(shown, key=lambda each: -each[0].spread.mean), start=1):
        mean, half, colour = saved.spread.mean, saved.spread.half_interval, looks[result.name].colour
        words = f"{saved.bound} {mean:.0%}" if saved.bound or half is None else f"{mean:.0%} ± {half:.0%}"
        corner(0.97 - line * _LINE, f"{result.name}  {words}", color=colour)
        if not saved.bound and result.loss is not None and result.flops is not None:
            begin = compute.scale * result.flops.mean
            look = {"arrowstyle": "->", "color": colour, "linewidth": 1.0, "shrinkA": 6, "shrinkB": 0}
            axes.annotate("", (begin / (1 - mean), result.loss.mean), (begin, result.loss.mean), arrowprops=look)
    if shown:
        corner(0.97, "compute saved at equal loss", color=style.MUTED)
