"""One panel drawn: every series with an id of its own, decisions, stages and changes of workers marked."""

import dataclasses
from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from raystage.report import style
from raystage.report.axes import scale
from raystage.report.columns import Values
from raystage.report.curves import Positions
from raystage.report.digest import Digest
from raystage.report.marks import are_labelled, label_decisions, mark_decisions, mark_workers, ring_decisions, shade_stages
from raystage.report.panels import LABELS, SCALING, Look, Panel, look_of, shown
from raystage.report.series import Series
from raystage.report.throughput import scaling_of, throughput_series
from raystage.tracking import units

_N_MARKERS = 9  # of a line with more points, so that the markers do not hide it


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A series as the picture has it: `seen` are the positions of its points within the axes. `id` is that of its SVG group.

    `run`: its index; None for a series that several runs have a part in.
    """

    id: str
    panel: Panel
    run: int | None
    name: str
    series: Series
    label: str
    look: Look
    seen: Positions

    @property
    def n_beyond(self) -> int:
        """How many points the axes left out."""
        return int(np.isfinite(self.series.y).sum()) - len(self.seen)


def draw(axes: Axes, panel: Panel, runs: Sequence[Digest]) -> list[Drawn]:
    """Draws a panel; returns what it drew, in the order of drawing."""
    if panel.id == SCALING.id:
        return _draw_scaling(axes, runs)
    found = shown(panel, runs)
    scale(axes, panel, found)
    if panel.level is not None:
        axes.axhline(panel.level, color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    if len(runs) == 1:
        shade_stages(axes, runs[0], panel.x.key)
    drawn = [_draw_series(axes, panel, index, name, series, runs) for index, name, series in found]
    if panel.id == "throughput" and len(runs) == 1:
        mark_workers(axes, runs[0].worker_changes)
        return drawn
    return drawn + _draw_decisions(axes, panel, runs, {index for index, _, _ in found})


def _draw_series(axes: Axes, panel: Panel, index: int, name: str, series: Series, runs: Sequence[Digest]) -> Drawn:
    look = look_of(name, index, len(runs))
    label = LABELS[name] if len(runs) == 1 else runs[index].name
    x, y = series.at[panel.x.key], _inside(axes, series.at[panel.x.key], series.y)
    every = max(1, -(-len(x) // _N_MARKERS)) if look.dash != "none" else 1
    options: dict[str, Any] = {"marker": look.marker, "markersize": look.size, "markevery": (index * every // len(runs), every)}
    drawn = Drawn(f"{panel.id}-{index}-{name}", panel, index, name, series, label, look, np.flatnonzero(np.isfinite(y)))
    axes.plot(
        x, y, color=look.colour, linestyle=look.dash, linewidth=look.width, alpha=look.alpha, label=label, gid=drawn.id,
        **(options if look.marker else {}),
    )  # fmt: skip
    return drawn


def _draw_scaling(axes: Axes, runs: Sequence[Digest]) -> list[Drawn]:
    """Median tokens a second over the number of workers, a line a shape."""
    rows = scaling_of([row for run in runs for row in run.throughputs])
    drawn, shapes = [], list(dict.fromkeys(row.throughput.shape for row in rows))
    workers = sorted({row.throughput.workers for row in rows})
    axes.set_xlabel(SCALING.x.label)
    axes.set_xlim(0, 1.05 * workers[-1])
    axes.set_xticks(workers)
    axes.set_ylabel(SCALING.y.label)
    axes.set_ylim(0, 1.1 * max(row.throughput.tokens_per_s.value or 0 for row in rows))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))
    for index, shape in enumerate(shapes):
        series = throughput_series([row.throughput for row in rows if row.throughput.shape == shape])
        colour, dash = style.run_style(index)
        # points of several runs are no line: each ran on a machine of its own
        look = Look(colour, dash if len(runs) == 1 else "none", style.run_marker(index), 1.3, size=5)
        drawn.append(Drawn(f"scaling-{index}-tokens_per_s", SCALING, None, "tokens_per_s", series, shape, look, np.arange(len(series.y))))
        axes.plot(series.at["world_size"], series.y, color=colour, linestyle=look.dash, marker=look.marker, markersize=5, gid=drawn[-1].id)
    return drawn


def _inside(axes: Axes, x: Values, y: Values) -> Values:
    """y with gaps in place of points beyond the axes: a renderer that cuts lines at its edge would make points of its own."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    with np.errstate(invalid="ignore"):
        return np.where((left <= x) & (x <= right) & (low <= y) & (y <= high), y, np.nan)


def _draw_decisions(axes: Axes, panel: Panel, runs: Sequence[Digest], present: Set[int]) -> list[Drawn]:
    """Of the runs that the panel has a line of."""
    labelled = are_labelled(runs)
    as_lines = labelled or len(runs) == 1
    colours = [style.INK if len(runs) == 1 else style.run_style(index)[0] for index in range(len(runs))]
    drawn = []
    for index in sorted(present):
        run, colour = runs[index], colours[index]
        series = run.series.get("decisions")
        if series is None or not (as_lines or ("mean_loss" in panel.names and "mean_loss" in run.series)):
            continue
        id_ = f"{panel.id}-{index}-decisions"
        seen = (mark_decisions if as_lines else ring_decisions)(axes, run, panel.x.key, colour, id_)
        look = Look(colour, marker=None if as_lines else "o")
        drawn.append(Drawn(id_, panel, index, "decisions", series, LABELS["decisions"], look, seen))
    if labelled:
        label_decisions(axes, [runs[i] for i in sorted(present)], panel.x.key, [colours[i] for i in sorted(present)])
    return drawn
