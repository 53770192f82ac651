"""The curves laid over each other: each grown one shifted so that equal losses align with the target's."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raystage.report import style
from raystage.studies.dynamics import Comparison
from raystage.studies.equal_loss import Curve
from tests.bench.dynamics_arms import KINDS, VARIANTS, Arm, Kind


def save_overlay(curves: Mapping[Arm, Curve], comparisons: Mapping[Arm, Comparison], path: Path) -> None:
    """One panel for width and one for depth; every seed a line."""
    with style.applied():
        figure = Figure(figsize=(11, 4.2), dpi=160, layout="constrained", facecolor="white")
        for kind, axes in zip(KINDS, figure.subplots(1, len(KINDS)), strict=True):
            _draw(axes, kind, curves, comparisons)
        figure.savefig(path, metadata={"Software": None})


def _draw(axes: Axes, kind: Kind, curves: Mapping[Arm, Curve], comparisons: Mapping[Arm, Comparison]) -> None:
    grown = [arm for arm in comparisons if arm.kind == kind]
    places = [(token + comparisons[arm].shift_tokens) / 1e6 for arm in grown for token in curves[arm].x]
    losses = [loss for arm in grown for loss in curves[arm].losses]
    for seed in sorted({arm.seed for arm in grown}):
        target = curves[Arm(seed)]
        label = "target from scratch" if seed == 0 else None
        axes.plot([token / 1e6 for token in target.x], target.losses, color=style.INK, linewidth=1.4, alpha=0.7, label=label)
    for variant, colour in zip(VARIANTS, style.RUN_COLOURS, strict=False):
        for arm in (arm for arm in grown if arm.variant == variant):
            shifted = [(token + comparisons[arm].shift_tokens) / 1e6 for token in curves[arm].x]
            label = f"grown, {variant}" if arm.seed == 0 else None
            axes.plot(shifted, curves[arm].losses, color=colour, linewidth=1.0, alpha=0.8, label=label)
    axes.set_title(f"Twice the {kind}")
    axes.set_xlim(0.8 * min(places), 1.05 * max(places))
    axes.set_ylim(0.98 * min(losses), min(1.02 * max(losses), 1.5 * min(losses)))
    axes.set_xlabel("tokens of the target's clock [M]")
    axes.set_ylabel("validation loss [nats a token]")
    axes.legend(loc="upper right")
