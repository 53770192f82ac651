"""A grown run after its last growth: where that lies, and the validations from the end of its re-warmup on. Pure.

Before, it is a smaller model's curve; during the re-warmup the learning rate rises from zero, and the loss falls and comes back as it would
in a decay. Neither tells what a grown model is worth.
"""

import numpy as np

from raystage.config import Config, from_tree, to_tree
from raystage.config.study import Study
from raystage.report.stages import Stage
from raystage.studies.equal_loss import Curve
from raystage.studies.measured import Measured


def size_of(stage: Stage) -> tuple[int, int]:
    """Layers and channels."""
    return stage.record["n_layer"], stage.record["d_model"]


def grown_at(run: Measured) -> float | None:
    """The tokens that it had seen at its last growth; None of a run that ended as small as it began."""
    stages = run.digest.stages
    smaller = [stage for stage in stages if size_of(stage) != size_of(stages[-1])]
    return float(smaller[-1].end["tokens_seen"]) if smaller and size_of(stages[0]) != size_of(stages[-1]) else None


def settings_of(study: Study, arm: str) -> Config:
    """What the runs of an arm have in common."""
    return from_tree(to_tree(study.base), study.arm(arm).overrides)


def settled_at(run: Measured, settings: Config) -> float | None:
    """The tokens at which the re-warmup of the last growth ended."""
    at = grown_at(run)
    return None if at is None else at + settings.growth.rewarm_steps * settings.training.batch_tokens


def settled_curve(run: Measured, settings: Config) -> Curve:
    """Validations over FLOPs, all of them where nothing grew."""
    val, begin = run.digest.val.known("val_loss"), settled_at(run, settings)
    after = val["tokens_seen"] >= (-np.inf if begin is None else begin)
    return Curve(val["flops"][after] - run.digest.base["flops"], val["val_loss"][after])
