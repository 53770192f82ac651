"""One trial in a process of Ray Tune: an ordinary run, whose validations Tune hears of."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from raystage.config import Config
from raystage.config.search import Constraints, Objective
from raystage.data.progress import no_progress
from raystage.runtime.driver import Part, train
from raystage.runtime.engine import Engine, EngineError
from raystage.runtime.hardware import hardware_of
from raystage.runtime.local import LocalEngine
from raystage.runtime.ray_engine import RayEngine
from raystage.runtime.ray_metrics import ray_metrics
from raystage.runtime.secrets_file import load_secrets
from raystage.tracking.records import Record
from raystage.tuning.outcome import Outcome, Status, outcome_of, perplexity_ratios
from raystage.tuning.trial_config import Trial, TrialConfigs

OUTCOME, LOSS, TOKENS = "outcome", "val_loss", "tokens_seen"


@dataclasses.dataclass(frozen=True)
class Job:
    """What all trials of a search have in common; `folder`: the working folder of the search, which relative paths count from.

    `compared_seed`: of the trials that Tune compares while they run, and may end; those of other seeds are compared by the point.
    """

    configs: TrialConfigs
    objective: Objective
    constraints: Constraints
    tags: Mapping[str, str]
    folder: Path
    compared_seed: int

    def outcome(self, trial: Trial, status: Status = "done") -> Outcome:
        """What a trial's run folder says."""
        return outcome_of(self.configs.folder_of(trial), self.configs.of(trial), self.objective, self.constraints, status)


def run_trial(settings: dict[str, Any], job: Job) -> None:
    """Trains, or goes on with, the run of a trial; its last report has the outcome. Raises what the run does."""
    load_secrets()
    with contextlib.suppress(OSError):
        os.chdir(job.folder)
    trial = Trial.from_json(settings["trial"])
    config = job.configs.of(trial)
    engines: list[Engine] = []

    def make_engine() -> Engine:
        engines.append(RayEngine(config) if config.runtime.engine == "ray" else LocalEngine(config.runtime))
        return engines[0]

    watch = _Watch(job.constraints, engines, trial.seed == job.compared_seed)
    tags = {**job.tags, "raystage.trial": trial.name}
    try:
        with contextlib.nullcontext() if config.runtime.engine == "ray" else ray_metrics(job.configs.folder_of(trial), config):
            train(config, make_engine, no_progress, print, Part(tags, [watch]))
    except EngineError:
        if job.outcome(trial).rejected is None:
            raise  # no trouble of training's own: worth another try
    outcome = job.outcome(trial)
    last = told_of(watch.val[-1]) if watch.val else {LOSS: math.inf}
    if not watch.is_compared:
        last[TOKENS] = 0  # before any rung
    tune.report({**last, OUTCOME: json.dumps(outcome.to_json())})


def told_of(val: Record) -> dict[str, float]:
    """What Tune hears of a validation; a loss that is not finite, which a record cannot hold, is the worst there is."""
    return {LOSS: math.inf if val["val_loss"] is None else val["val_loss"], TOKENS: val["tokens_seen"]}


class _Watch:
    """A sink: tells Tune of each validation, and ends a run that has broken a constraint, which more steps would not mend.

    A validation is told when training has gone on after it: the last one belongs to the outcome, or ASHA would end what has ended.
    """

    name = "Ray Tune"

    def __init__(self, constraints: Constraints, engines: Sequence[Engine], is_compared: bool) -> None:
        self._limit, self._engines, self.is_compared = constraints.val_perplexity_ratio, engines, is_compared
        self.val: list[Record] = []
        self._n_told = 0

    def consume(self, records: Sequence[Record], decisions: Sequence[Record]) -> None:
        """Takes new records in file order."""
        for record in records:
            if record["kind"] == "val":
                self.val.append(record)
            elif record["kind"] == "train" and self._n_told < len(self.val) and self.is_compared:
                tune.report(told_of(self.val[-1]))
                self._n_told = len(self.val)
        ratios = [ratio for ratio, _ in perplexity_ratios(self.val)]
        if self._limit is not None and self._engines and max(ratios, default=0.0) > self._limit:
            self._engines[0].request_stop()


def needs_of(config: Config) -> dict[str, float]:
    """What Tune keeps for the process of a trial: the local engine trains in it, Ray's workers have theirs elsewhere."""
    # Tune wants to keep something: a byte of memory, since every CPU is for workers
    return {"CPU": 0, "memory": 1} if config.runtime.engine == "ray" else dict(hardware_of(config).need)
