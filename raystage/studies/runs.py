"""Which runs a study needs: every arm at each learning rate with the first seed, then at its best rate with all seeds. Pure."""

import dataclasses
import math
from collections.abc import Mapping

from raystage.config import Config, from_tree, to_tree
from raystage.config.duration import Duration, parse_duration
from raystage.config.study import Arm, Study
from raystage.training.target_cost import as_text, in_flops


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """`factor`: of the base's peak learning rate."""

    arm: str
    factor: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}_lr-x{self.factor:g}_seed-{self.seed}"


Losses = Mapping[StudyRun, float | None]  # final validation loss of the runs that have ended; None: not finite, or failed


def due_runs(study: Study, losses: Losses) -> list[StudyRun]:
    """Runs whose need is known and that have not ended, in the order in which to run them."""
    trials = [run for arm in study.arms if arm.keys.rate_of is None for run in _trials(study, arm.name)]
    chosen = {arm.name: chosen_factor(study, arm.name, losses) for arm in study.arms}
    repeats = [StudyRun(name, factor, seed) for seed in study.keys.seeds for name, factor in chosen.items() if factor is not None]
    return [run for run in dict.fromkeys([*trials, *repeats]) if run not in losses]


def chosen_factor(study: Study, arm: str, losses: Losses) -> float | None:
    """The factor with the lowest loss; None while a trial is missing, or where all have failed."""
    trials = _trials(study, study.arm(arm).keys.rate_of or arm)
    if any(run not in losses for run in trials):
        return None
    found = [(math.inf if losses[run] is None else losses[run], run.factor) for run in trials]
    loss, factor = min(found, key=lambda each: each[0] or 0.0)
    return factor if loss != math.inf else None


def runs_of(study: Study, arm: str, losses: Losses) -> list[StudyRun]:
    """The runs that count for an arm: those at its rate that have ended well."""
    factor = chosen_factor(study, arm, losses)
    runs = [] if factor is None else [StudyRun(arm, factor, seed) for seed in study.keys.seeds]
    return [run for run in runs if losses.get(run) is not None]


def is_at_edge(study: Study, factor: float) -> bool:
    """Whether the best rate may lie beyond those that were tried."""
    factors = study.keys.learning_rates
    return len(factors) > 1 and factor in (min(factors), max(factors))


def config_of(study: Study, run: StudyRun, storage: str) -> Config:
    """The run of an arm. Raises ConfigError for one that could not be."""
    arm, base = study.arm(run.arm), study.base
    own = [
        f"name={run.name}",
        f"seed={run.seed}",
        f"storage={storage}",
        f"training.optimizer.lr={base.training.optimizer.lr * run.factor:.6g}",
        f"training.duration={as_text(duration_of(arm, base))}",
        "runtime.engine=local",
        "runtime.workers=1",
        "tracking.mlflow=false",
        "sample.lines=0",
        "evaluation.beside_training=false",
    ]
    if base.runtime.threads_per_worker is None:
        own.append("runtime.threads_per_worker=1")  # runs fill the machine, one a core
    return from_tree(to_tree(base), [*arm.overrides, *own])


def duration_of(arm: Arm, base: Config) -> Duration:
    """An arm's budget as `training.duration` has it."""
    share, unit = arm.keys.budget.split("% ")
    whole, batch = parse_duration(base.training.duration), base.training.batch_tokens
    if unit == "flops":
        whole = in_flops(whole, base)
    elif unit == "tokens" and whole.unit == "steps":
        whole = Duration(whole.amount * batch, "tokens")
    elif unit == "steps" and whole.unit == "tokens":
        whole = Duration(math.ceil(whole.amount / batch), "steps")
    return Duration(whole.amount * float(share) / 100, whole.unit)


def _trials(study: Study, arm: str) -> list[StudyRun]:
    return [StudyRun(arm, factor, study.keys.seeds[0]) for factor in study.keys.learning_rates]
