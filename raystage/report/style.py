"""How figures look: colours that colour-blind readers tell apart (Okabe and Ito), few lines, quiet axes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e4e8ec"
BAND = "#f4f6f8"
TRAIN = "#0072B2"
VALIDATION = "#D55E00"
THRESHOLD = "#D55E00"
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RUN_DASHES = ("-", "--", ":", "-.")

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
}


@contextmanager
def applied() -> Iterator[None]:
    """Figures drawn and saved inside look like this."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def run_style(index: int) -> tuple[str, str]:
    """Colour and dash of the run at `index`."""
    return RUN_COLOURS[index % len(RUN_COLOURS)], RUN_DASHES[index // len(RUN_COLOURS) % len(RUN_DASHES)]
