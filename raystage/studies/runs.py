"""Which runs a study needs: every arm at each learning rate with the first seed, then at its best rate with all seeds. Pure."""

import dataclasses
import math
from collections.abc import Mapping

from raystage.config import Config, from_tree, to_tree
from raystage.config.duration import Duration, parse_duration
from raystage.config.study import Arm, Study
from raystage.studies.identity import digest
from raystage.training.target_cost import as_text, in_flops


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """`factor`: of the base's peak learning rate; `share`: of its arm's budget, less than all of it where only the rate is tried."""

    arm: str
    factor: float
    seed: int
    share: float = 1.0

    def __str__(self) -> str:
        tried = f"_share-{self.share:g}" if self.share < 1 else ""
        return f"{self.arm}_lr-x{self.factor:g}_seed-{self.seed}{tried}"


Losses = Mapping[StudyRun, float | None]  # final validation loss of the runs that have ended; None: it diverged


def due_runs(study: Study, losses: Losses) -> list[StudyRun]:
    """Runs whose need is known and that have not ended, in the order in which to run them."""
    trials = [run for arm in study.arms if arm.keys.rate_of is None for run in trials_of(study, arm.name)]
    repeats = [run for seed in study.keys.seeds for arm in study.arms for run in needed_runs(study, arm.name, losses) if run.seed == seed]
    return [run for run in dict.fromkeys([*trials, *repeats]) if run not in losses]


def chosen_factor(study: Study, arm: str, losses: Losses) -> float | None:
    """The factor with the lowest loss; None while a trial is missing, or where all have diverged."""
    trials = trials_of(study, study.arm(arm).keys.rate_of or arm)
    if any(run not in losses for run in trials):
        return None
    found = [(loss, run.factor) for run in trials if (loss := losses[run]) is not None]
    return min(found)[1] if found else None


def needed_runs(study: Study, arm: str, losses: Losses) -> list[StudyRun]:
    """The runs of an arm at its rate, one a seed; none while that is not known."""
    factor = chosen_factor(study, arm, losses)
    return [] if factor is None else [StudyRun(arm, factor, seed) for seed in study.keys.seeds]


def trials_of(study: Study, arm: str) -> list[StudyRun]:
    """An arm at every rate, with the first seed; the baseline always whole, so that it is tuned at least as well as any other arm.

    A single rate has nothing to be tried for: it is the first seed's run.
    """
    keys = study.keys
    share = keys.trial_share if len(keys.learning_rates) > 1 and arm != keys.baseline else 1.0
    return [StudyRun(arm, factor, keys.seeds[0], share) for factor in keys.learning_rates]


def counted_runs(study: Study, arm: str, losses: Losses) -> list[StudyRun]:
    """Those of them that have ended; where every trial over the whole budget has diverged, these."""
    runs = needed_runs(study, arm, losses)
    if not runs and study.arm(arm).keys.rate_of is None:
        trials = trials_of(study, arm)
        runs = trials if all(run in losses and run.share == 1 for run in trials) else []
    return [run for run in runs if run in losses]


def foreseen_runs(study: Study) -> list[StudyRun]:
    """As many as it takes where nothing diverges, at rates that stand for those that will be chosen."""
    losses: dict[StudyRun, float | None] = {}
    while new := due_runs(study, losses):
        losses |= dict.fromkeys(new, 0.0)
    return list(losses)


def is_at_edge(study: Study, factor: float) -> bool:
    """Whether the best rate may lie beyond those that were tried."""
    factors = study.keys.learning_rates
    return len(factors) > 1 and factor in (min(factors), max(factors))


def config_of(study: Study, run: StudyRun, storage: str) -> Config:
    """The run of an arm; its name ends with a digest of all that moves its figures, so that nothing else is ever taken for it.

    Raises ConfigError for one that could not be.
    """
    arm, base = study.arm(run.arm), study.base
    budget = duration_of(arm, base)
    own = [
        f"seed={run.seed}",
        f"storage={storage}",
        f"training.optimizer.lr={base.training.optimizer.lr * run.factor:.6g}",
        f"training.duration={as_text(dataclasses.replace(budget, amount=budget.amount * run.share))}",
        "runtime.engine=local",
        "runtime.workers=1",
        "tracking.mlflow=false",
        "sample.lines=0",
        "evaluation.beside_training=false",
    ]
    if base.runtime.threads_per_worker is None:
        own.append("runtime.threads_per_worker=1")  # runs fill the machine, one a core
    config = from_tree(to_tree(base), [*arm.overrides, *own])
    return dataclasses.replace(config, name=f"{run}_{digest(config)}")


def budget_of(arm: Arm) -> tuple[float, str]:
    """In percent of the base's duration, and in which unit."""
    percent, unit = arm.keys.budget.split("% ")
    return float(percent), unit


def duration_of(arm: Arm, base: Config) -> Duration:
    """An arm's budget as `training.duration` has it."""
    percent, unit = budget_of(arm)
    whole, batch = parse_duration(base.training.duration), base.training.batch_tokens
    if unit == "flops":
        whole = in_flops(whole, base)
    elif unit == "tokens" and whole.unit == "steps":
        whole = Duration(whole.amount * batch, "tokens")
    elif unit == "steps" and whole.unit == "tokens":
        whole = Duration(math.ceil(whole.amount / batch), "steps")
    return Duration(whole.amount * percent / 100, whole.unit)
