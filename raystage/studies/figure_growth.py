"""Grown runs laid over the baseline: each one shifted along the tokens so that its loss is the baseline's (Shen et al. 2203.06211)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from raystage.config.study import Study
from raystage.report import style
from raystage.studies.equal_loss import smoothed
from raystage.studies.growing import Overlay, curve_of_tokens
from raystage.studies.results import Runs, by_seed
from raystage.studies.runs import Losses


def save_overlays(study: Study, losses: Losses, runs: Runs, overlays: Mapping[str, Sequence[Overlay]], path: Path) -> None:
    """One PNG; a line a seed."""
    base = [smoothed(curve_of_tokens(run)) for run in by_seed(study, study.keys.baseline, losses, runs).values()]
    drawn = [overlay for found in overlays.values() for overlay in found]
    with style.applied():
        figure = Figure(figsize=(8, 4.6), dpi=150, layout="constrained", facecolor="white")
        axes = figure.subplots()
        for number, curve in enumerate(base):
            label = study.keys.baseline if number == 0 else None
            axes.plot(curve.x / 1e6, curve.losses, color=style.INK, linewidth=1.6, alpha=0.6, label=label)
        for index, (arm, found) in enumerate(overlays.items()):
            colour, dash = style.run_style(index)
            for number, overlay in enumerate(found):
                label = arm if number == 0 else None
                axes.plot(overlay.curve.x / 1e6, overlay.curve.losses, color=colour, linestyle=dash, linewidth=1.0, label=label)
        if drawn:
            axes.set_xlim(0.9 * min(overlay.curve.x.min() for overlay in drawn) / 1e6, None)
            axes.set_ylim(
                0.99 * min(overlay.curve.losses.min() for overlay in drawn), 1.01 * max(overlay.curve.losses[0] for overlay in drawn)
            )
        axes.set_title("After growth, on the baseline's clock")
        axes.set_xlabel("tokens [M], those of grown runs shifted to where the baseline has their loss")
        axes.set_ylabel("validation loss [nats a token]")
        axes.legend(loc="upper right")
        figure.savefig(path, metadata={"Software": None})
