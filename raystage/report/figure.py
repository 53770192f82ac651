"""The figures: all panels in one PNG, and each as an SVG of its own for the page."""

import base64
import dataclasses
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raystage.report import axes, style
from raystage.report.run import Run

_DPI = 160
_PNG_PANEL_INCHES = (5.4, 3.6)
_SVG_INCHES = (4.7, 3.3)  # small: its text is then large enough on a phone


@dataclasses.dataclass(frozen=True)
class Panel:
    title: str
    draw: Callable[[Axes], None]


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """Loss over tokens, compute and time; slopes if there are any."""
    losses = {"Loss over tokens": axes.TOKENS, "Loss over compute": axes.FLOPS, "Loss over time": axes.TIME}
    panels = [Panel(title, partial(_draw_losses, runs, x_axis)) for title, x_axis in losses.items()]
    if axes.has_slopes(runs):
        panels.append(Panel("Slope and threshold", partial(_draw_slopes, runs)))
    return panels


def save_png(runs: Sequence[Run], path: Path) -> None:
    """Every panel in one picture, two a row."""
    panels = panels_of(runs)
    columns = 2 if len(panels) == 4 else len(panels)
    rows = -(-len(panels) // columns)
    with style.applied():
        figure = Figure(
            figsize=(_PNG_PANEL_INCHES[0] * columns, _PNG_PANEL_INCHES[1] * rows), dpi=_DPI, layout="constrained", facecolor="white"
        )
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
        for panel, ax in zip(panels, figure.subplots(rows, columns, squeeze=False).flat, strict=True):
            _fill(ax, panel, pad=58)
        figure.savefig(path, metadata={"Software": None})


def svg_uri(panel: Panel) -> str:
    """The panel as a data URI; its title is left to the page."""
    buffer = io.BytesIO()
    with style.applied():
        figure = Figure(figsize=_SVG_INCHES, layout="constrained", facecolor="white")
        _fill(figure.subplots(), panel, pad=None)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _fill(ax: Axes, panel: Panel, pad: float | None) -> None:
    panel.draw(ax)
    if pad is not None:
        ax.set_title(panel.title, pad=pad)


def _draw_losses(runs: Sequence[Run], x_axis: axes.XAxis, ax: Axes) -> None:
    axes.draw_losses(ax, runs, x_axis)


def _draw_slopes(runs: Sequence[Run], ax: Axes) -> None:
    axes.draw_slopes(ax, runs)
