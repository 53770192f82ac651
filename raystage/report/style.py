"""How figures look: colours that colour-blind readers tell apart (Okabe and Ito; the last two Tol's), few lines, quiet axes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e4e8ec"
BAND = "#f4f6f8"
TRAIN = "#0072B2"
VALIDATION = "#D55E00"
THRESHOLD = "#D55E00"
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
Dash = Literal["-", "--", ":", "-.", "none"] | tuple[float, tuple[float, ...]]
# a run's dash and marker tell it apart where its colour does not: five and ten, so that ten runs all differ
RUN_DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.", (0, (7, 1.5, 1, 1.5, 1, 1.5)))
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

_RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": "#b8c0c8",
    "ytick.color": "#b8c0c8",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 8.5,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "raystage",
    "path.simplify": False,  # each point of a series stays in the SVG
    "text.parse_math": False,  # a run may be called a$b
}


@contextmanager
def applied() -> Iterator[None]:
    """Figures drawn and saved inside look like this."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def run_style(index: int) -> tuple[str, Dash]:
    """Colour and dash of the run at `index`."""
    return RUN_COLOURS[index % len(RUN_COLOURS)], RUN_DASHES[index % len(RUN_DASHES)]


def run_marker(index: int) -> str:
    """Marker of the run at `index`."""
    return RUN_MARKERS[index % len(RUN_MARKERS)]
