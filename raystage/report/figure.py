"""The figures: all panels in one PNG, and each as an SVG of its own for the page."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from raystage.report import style
from raystage.report.digest import Digest
from raystage.report.drawing import Drawn, draw
from raystage.report.panels import Look, Panel, look_of, panels_of
from raystage.report.side_by_side import SideBySide
from raystage.report.svg import inline_svg

_DPI = 150
_COLUMNS = 3
_PNG_PANEL_INCHES = (4.8, 3.7)
_SVG_INCHES = (3.9, 2.9)  # small: its text is then large enough on a phone
_LABELS_POINTS = 52  # the words of the decisions stand between the plot and its title


@dataclasses.dataclass(frozen=True)
class Picture:
    """A panel of the page: its SVG, what it drew, and the keys of its lines."""

    panel: Panel
    svg: Markup
    drawn: list[Drawn]
    keys: list[tuple[Look, str]]
    caption: str

    @property
    def decisions(self) -> str:
        """What the decisions look like in it, in words; empty if there are none."""
        markers = {each.look.marker for each in self.drawn if each.name == "decisions"}
        return "" if not markers else "Vertical lines: decisions, dotted where refused." if markers == {None} else "Rings: decisions."


def save_png(runs: Sequence[Digest], path: Path) -> None:
    """Every panel in one picture, three a row; the runs named once, below all."""
    panels = panels_of(runs)
    rows = -(-len(panels) // _COLUMNS)
    size = (_PNG_PANEL_INCHES[0] * min(_COLUMNS, len(panels)), _PNG_PANEL_INCHES[1] * rows)
    with style.applied():
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained", facecolor="white")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
        all_axes = list(figure.subplots(rows, min(_COLUMNS, len(panels)), squeeze=False).flat)
        for panel, axes in zip(panels, all_axes, strict=False):
            keys = _keys(draw(axes, panel, runs), runs)
            axes.set_title(panel.title, pad=_LABELS_POINTS if axes.texts else None)
            if len(keys) > 1 and len(runs) == 1:
                axes.legend([_handle(look) for look, _ in keys], [text for _, text in keys], loc="best")
        for axes in all_axes[len(panels) :]:
            axes.remove()
        if len(runs) > 1:
            handles = [_handle(look_of("val_loss", index, len(runs))) for index in range(len(runs))]
            figure.legend(handles, [run.name for run in runs], loc="outside lower center", ncols=min(5, len(runs)))
        figure.savefig(path, metadata={"Software": None})


def pictures_of(runs: Sequence[Digest], side_by_side: SideBySide = map) -> list[Picture]:
    """Every panel for the page, which says titles and keys itself."""
    return list(side_by_side(partial(_picture, runs), panels_of(runs)))


def _picture(runs: Sequence[Digest], panel: Panel) -> Picture:
    with style.applied():
        figure = Figure(figsize=_SVG_INCHES, layout="constrained", facecolor="white")
        drawn = draw(figure.subplots(), panel, runs)
        svg = inline_svg(figure, f"raystage-{panel.id}", _description(panel, drawn, runs))
    return Picture(panel, svg, drawn, _keys(drawn, runs), panel.caption_for(len(runs)))


def _keys(drawn: Sequence[Drawn], runs: Sequence[Digest]) -> list[tuple[Look, str]]:
    """Of one run its series; of several the runs, each by its main line; of the scaling its shapes."""
    lines = [each for each in drawn if each.name != "decisions"]
    if len(runs) == 1 or any(each.run is None for each in lines):
        return [(each.look, each.label) for each in lines]
    return [(look_of(_main(each.panel), index, len(runs)), runs[index].name) for index, each in _first_of_each(lines).items()]


def _main(panel: Panel) -> str:
    return "val_loss" if "val_loss" in panel.names else panel.of_many[0]


def _first_of_each(lines: Sequence[Drawn]) -> dict[int, Drawn]:
    found: dict[int, Drawn] = {}
    for each in lines:
        if each.run is not None:
            found.setdefault(each.run, each)
    return dict(sorted(found.items()))


def _handle(look: Look) -> Line2D:
    return Line2D([], [], color=look.colour, linestyle=look.dash, marker=look.marker, linewidth=look.width, markersize=look.size + 1)


def _description(panel: Panel, drawn: Sequence[Drawn], runs: Sequence[Digest]) -> str:
    """What a reader who does not see it is told: the axes, and where each series ends."""
    parts = [f"{panel.title}: {panel.y.label} over {panel.x.label}"]
    for each in drawn:
        known = each.series.y[~(each.series.y != each.series.y)]
        end = f"{len(known)} decisions marked" if each.name == "decisions" else f"ends at {known[-1]:.4g}"
        name = each.label if len(runs) == 1 or each.run is None else f"{runs[each.run].name}, {each.name.replace('_', ' ')}"
        parts.append(f"{name} {end}" if each.name != "decisions" else end)
    return "; ".join(parts)
