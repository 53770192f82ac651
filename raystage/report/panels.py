"""The panels of a report: what is drawn over what, and how each line looks."""

import dataclasses
from collections.abc import Sequence

from raystage.report import style
from raystage.report.digest import Digest
from raystage.report.series import Series
from raystage.report.throughput import scaling_of


@dataclasses.dataclass(frozen=True)
class XAxis:
    key: str
    label: str
    is_log: bool = False


@dataclasses.dataclass(frozen=True)
class YAxis:
    """`kind`: `log`, `zero` (linear from 0), `share` (the same in percent) or `slope`."""

    label: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Panel:
    """`names`: the series of one run; `of_many`: of each run where there are several, whose noise would hide one another."""

    id: str
    title: str
    caption: str
    x: XAxis
    y: YAxis
    names: tuple[str, ...]
    of_many: tuple[str, ...]
    of_many_caption: str = ""
    level: float | None = None

    def names_for(self, n_runs: int) -> tuple[str, ...]:
        """The series that are drawn of each of so many runs."""
        return self.names if n_runs == 1 else self.of_many

    def caption_for(self, n_runs: int) -> str:
        """What is said below it."""
        return self.caption + (self.of_many_caption if n_runs > 1 else "")


@dataclasses.dataclass(frozen=True)
class Look:
    """A line, its markers, or both; `dash` none: markers alone."""

    colour: str
    dash: style.Dash = "-"
    marker: str | None = None
    width: float = 1.0
    alpha: float = 1.0
    size: float = 3.0


TOKENS = XAxis("tokens_seen", "tokens seen")
FLOPS = XAxis("flops", "compute [FLOPs]", is_log=True)
TIME = XAxis("time_s", "training time")
_LOSS = YAxis("loss [nats a token]", "log")
_LOSS_NAMES = ("loss", "mean_loss", "val_loss")
_LOSS_CAPTION = "Validation, always at full length, with markers; training as a running mean over a 25th of each stage"
_PEAKS = "; of each 60th of a run the largest"
_MEANS = "; as a running mean"

PANELS = (
    Panel("tokens", "Loss over tokens", _LOSS_CAPTION, TOKENS, _LOSS, _LOSS_NAMES, _LOSS_NAMES[1:]),
    Panel("compute", "Loss over compute", _LOSS_CAPTION, FLOPS, _LOSS, _LOSS_NAMES, _LOSS_NAMES[1:]),
    Panel("time", "Loss over time", _LOSS_CAPTION, TIME, _LOSS, _LOSS_NAMES, _LOSS_NAMES[1:]),
    Panel(
        "slope",
        "Slope and threshold",
        "The slope of each check; the thin line is the threshold that ends the stage; large markers: checks that fired",
        TOKENS,
        YAxis("d log loss / d log compute", "slope"),
        ("slope", "slope_bound", "threshold", "fired"),
        ("slope", "threshold", "fired"),
    ),
    Panel(
        "ratio",
        "Loss ratio",
        "Training loss of each step over the smallest before it; the dashed level, 1.2, is where a step counts as unstable",
        TOKENS,
        YAxis("loss / smallest before", "log"),
        ("loss_ratio",),
        ("loss_ratio_peaks",),
        _PEAKS,
        level=1.2,
    ),
    Panel(
        "gradient",
        "Gradient norm",
        "Global norm before clipping, of each step",
        TOKENS,
        YAxis("gradient norm", "log"),
        ("grad_norm",),
        ("grad_norm_peaks",),
        _PEAKS,
    ),
    Panel(
        "moment",
        "Largest second moment",
        "Adam's largest, on the steps where it is measured",
        TOKENS,
        YAxis("second moment", "log"),
        ("second_moment",),
        ("second_moment_peaks",),
        _PEAKS,
    ),
    Panel(
        "throughput",
        "Throughput",
        "Tokens a second over all workers, without what happens at boundaries",
        TOKENS,
        YAxis("tokens a second", "zero"),
        ("tokens_per_s",),
        ("mean_tokens_per_s",),
        _MEANS,
    ),
    Panel("mfu", "MFU", "Share of the device's dense bf16 peak", TOKENS, YAxis("MFU", "share"), ("mfu",), ("mean_mfu",), _MEANS),
)
SCALING = Panel(
    "scaling",
    "Scaling with workers",
    "Median tokens a second of each stage shape on each number of workers",
    XAxis("world_size", "workers"),
    YAxis("tokens a second", "zero"),
    ("tokens_per_s",),
    ("tokens_per_s",),
)
LABELS = {
    "loss": "training, each step",
    "mean_loss": "training, running mean",
    "val_loss": "validation, full length",
    "slope": "slope",
    "slope_bound": "its confident lower bound",
    "threshold": "threshold",
    "fired": "fired",
    "loss_ratio": "loss ratio",
    "grad_norm": "gradient norm",
    "second_moment": "largest second moment",
    "tokens_per_s": "tokens a second",
    "mfu": "MFU",
    "loss_ratio_peaks": "loss ratio",
    "grad_norm_peaks": "gradient norm",
    "second_moment_peaks": "largest second moment",
    "mean_tokens_per_s": "tokens a second, running mean",
    "mean_mfu": "MFU, running mean",
    "decisions": "decision",
}
_OF_ONE = {
    "loss": Look(style.TRAIN, width=0.7, alpha=0.25),
    "mean_loss": Look(style.TRAIN, width=1.7),
    "val_loss": Look(style.VALIDATION, "--", "o"),
    "slope": Look(style.TRAIN, marker="o", width=1.4),
    "slope_bound": Look(style.TRAIN, ":", width=0.9, alpha=0.7),
    "threshold": Look(style.THRESHOLD, "--", width=1.4),
    "fired": Look(style.THRESHOLD, "none", "D", size=5.5),
}
_OF_MANY = {
    "mean_loss": {"dash": "-", "marker": None, "width": 0.7, "alpha": 0.45},
    "threshold": {"dash": ":", "marker": None, "width": 0.9, "alpha": 0.8},
    "fired": {"dash": "none", "size": 6.5},
    "val_loss": {"width": 1.4},
    "slope": {"width": 1.2},
}


def look_of(name: str, index: int, n_runs: int) -> Look:
    """How a series of the run at `index` is drawn."""
    if n_runs == 1:
        return _OF_ONE.get(name, Look(style.TRAIN, width=0.8))
    colour, dash = style.run_style(index)
    return dataclasses.replace(Look(colour, dash, style.run_marker(index)), **_OF_MANY.get(name, {}))  # type: ignore[arg-type]


def panels_of(runs: Sequence[Digest]) -> list[Panel]:
    """The panels that have anything to show."""
    several_sizes = scaling_of([row for run in runs for row in run.throughputs])
    return [panel for panel in PANELS if shown(panel, runs)] + ([SCALING] if several_sizes else [])


def shown(panel: Panel, runs: Sequence[Digest]) -> list[tuple[int, str, Series]]:
    """What a panel draws: index of the run, name, series."""
    names = panel.names_for(len(runs))
    return [(index, name, run.series[name]) for name in names for index, run in enumerate(runs) if name in run.series]
