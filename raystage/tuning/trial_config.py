"""What a trial trains: the base, a point of the space, and the share of the run that the strategy looks at."""

import dataclasses
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raystage.config import Config, ConfigError, from_tree, to_tree
from raystage.config.duration import Duration, parse_duration
from raystage.config.pacing import LENGTH_RULES
from raystage.config.redact import holds_secret
from raystage.config.search import Search
from raystage.config.search_space import Point, Space, overrides_of
from raystage.models.count import flops_per_token
from raystage.tracking.mlflow_client import absolute_uri
from raystage.training.target_cost import as_text, in_flops, target_spec

START, WARMUP = "pacing.lengths", "pacing.warmup.fraction"  # what the lightweight strategy searches
_LIGHTWEIGHT_HORIZON = "3 warmups"
_VALIDATIONS = 10  # of a trial at least, to see its loss rise
_SHARE = re.compile(r"^\s*([0-9.]+)\s*(%|warmups?)\s*$")
_MAX_NAME = 80  # characters
_UNSAID, _LOST = re.compile(r"[^A-Za-z0-9.-]+"), re.compile(r"[^A-Za-z0-9.,\[\] -]")  # what a name leaves out; what it must not lose
# what a search itself decides, or what makes its trials comparable
_OWN = (
    "name",
    "seed",
    "storage",
    "training.duration",
    "training.stop_at",
    "runtime",
    "tracking",
    "validation",
    "checkpoint",
    "sample",
    "evaluation",
)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point with one seed; `name`: of its run, made of both, so that the same trial is the same run whenever it is begun."""

    point: Point
    seed: int
    name: str

    @staticmethod
    def of(point: Point, seed: int) -> "Trial":
        parts = [f"{key.rsplit('.', 1)[-1]}-{_UNSAID.sub('-', value.strip('[]'))}" for key, value in point]
        name = "_".join([*parts, f"seed-{seed}"])
        if len(name) > _MAX_NAME or any(_LOST.search(value) for _, value in point):
            name = f"{name[: _MAX_NAME - 9]}-{zlib.crc32(repr((point, seed)).encode()):08x}"
        return Trial(point, seed, name)

    def to_json(self) -> dict[str, Any]:
        return {"point": dict(self.point), "seed": self.seed, "name": self.name}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Trial":
        return Trial(tuple(tree["point"].items()), tree["seed"], tree["name"])


class TrialConfigs:
    """Makes the configuration of every trial, and that of the run that the search is for. `horizon`: where trials stop, if early."""

    def __init__(self, search: Search, base: Config, storage: str) -> None:
        self._search, self._base = search, base
        self._common = [f"training.duration={given_alike(search, base)}"]
        self._storage = Path(storage)
        self.horizon = _horizon(search, self.base)
        # the machine is for trials: no text is written and no checkpoint measured beside them
        self._trial = [f"storage={storage}", "sample.lines=0", "evaluation.beside_training=false", "runtime.spare_after_s=null"]
        self._trial += _rhythm(self.horizon, self.base, search)
        if base.tracking.mlflow:
            # a process of a cluster knows neither the environment nor the folder of this one
            self._trial.append(f"tracking.mlflow_uri={_uri_of_trials(base)}")
        if base.runtime.threads_per_worker is None:
            # trials fill the machine with a CPU a worker: two threads on each would wait for each other
            self._trial.append("runtime.threads_per_worker=1")

    @property
    def base(self) -> Config:
        """The run that the search is for, before a point is chosen."""
        return from_tree(to_tree(self._base), self._common)

    def of(self, trial: Trial) -> Config:
        """Raises ConfigError for a point that no run could have."""
        mine = [*overrides_of(trial.point), f"seed={trial.seed}", f"name={trial.name}"]
        return from_tree(to_tree(self._base), [*self._common, *self._trial, *mine])

    def folder_of(self, trial: Trial) -> Path:
        """Of a trial's run."""
        return self._storage / trial.name

    def refusal(self, trial: Trial) -> str | None:
        """Why no run could be so; None where one can."""
        try:
            self.of(trial)
        except ConfigError as error:
            return str(error)
        return None

    def chosen(self, point: Point) -> Config:
        """The run to train with a point of the space."""
        return from_tree(to_tree(self._base), [*self._common, *overrides_of(point), f"name={self._search.name}-best"])


def _uri_of_trials(base: Config) -> str:
    uri = absolute_uri(base.tracking)
    if holds_secret(uri):
        raise ConfigError(
            f"MLFLOW_TRACKING_URI={uri}: trials have it in their files, so there must be no secret in it; "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on every node instead"
        )
    return uri


def given_alike(search: Search, base: Config) -> str:
    """The duration that every trial is given: FLOPs of the static target, where points are compared at equal compute."""
    text, per = base.training.duration, search.objective.per
    duration = parse_duration(text)
    fits = {"compute": {"steps", "tokens", "flops"}, "tokens": {"steps", "tokens"}, "seconds": {"hours"}}[per]
    if search.objective.kind == "time_to_loss":
        return text
    if duration.unit not in fits:
        raise ConfigError(
            f"objective.per={per}: training.duration={text!r} of the base does not say how much that is; give {' or '.join(sorted(fits))}"
        )
    return text if per != "compute" else as_text(in_flops(duration, base))


def check_space(search: Search, space: Space, configs: TrialConfigs) -> None:
    """Every point of the space, or the corners of its ranges, as the run it would be. Raises ConfigError."""
    kind = search.strategy.kind
    if kind != "asha" and not space.is_finite:
        endless = next(dimension.key for dimension in space.dimensions if not dimension.values)
        raise ConfigError(f"space.{endless}: strategy.kind={kind} takes points one by one; give the range steps")
    for key in space.keys:
        if key in _OWN or key.partition(".")[0] in _OWN:
            raise ConfigError(f"space.{key}: is no key to search; set it in the base, or in overrides")
    for point in space.corners():
        config = configs.of(Trial.of(point, search.strategy.seeds[0]))
    if kind == "lightweight":
        _check_lightweight(space, config)


def _check_lightweight(space: Space, config: Config) -> None:
    if set(space.keys) != {START, WARMUP}:
        raise ConfigError(f"space: strategy.kind=lightweight searches {START} and {WARMUP}, and nothing else; use asha or grid")
    if config.pacing.rule not in LENGTH_RULES[1:4]:
        raise ConfigError(
            f"pacing.rule={config.pacing.rule}: strategy.kind=lightweight needs linear, root or two_stage, which have a warmup"
        )


def _rhythm(stop_at: str | None, base: Config, search: Search) -> list[str]:
    """Where a trial stops, and how often its loss is looked at before."""
    if stop_at is None:
        return []
    training, duration = base.training, parse_duration(stop_at)
    per_step = {
        "steps": 1.0,
        "tokens": float(training.batch_tokens),
        "flops": training.batch_tokens * flops_per_token(target_spec(base), base.model.context_length),
    }
    overrides = [f"training.stop_at={stop_at}", "training.preflight=false"]  # it would rehearse stages that the trial never sees
    if duration.unit == "hours":
        return overrides
    every = max(1, int(duration.amount / per_step[duration.unit]) // _VALIDATIONS)
    often = min(every, base.validation.every_steps)
    overrides.append(f"validation.every_steps={often}")
    if search.strategy.kind == "lightweight":  # whose rules go by the clock: others' decisions would change
        overrides.append(f"pacing.check_every_steps={min(often, base.pacing.check_every_steps)}")
    return overrides


def _horizon(search: Search, base: Config) -> str | None:
    text = search.strategy.horizon or (_LIGHTWEIGHT_HORIZON if search.strategy.kind == "lightweight" else None)
    if text is None:
        return None
    try:
        horizon = _duration_of(text, base)
    except ValueError:
        horizon = None
    if horizon is not None and horizon.unit in ("steps", "tokens") and search.objective.per == "compute":
        # points are compared at equal compute; the lightweight strategy asks for stability alone, in the same steps
        return as_text(horizon if search.strategy.kind == "lightweight" else in_flops(horizon, base))
    if horizon is not None:
        return as_text(horizon)
    raise ConfigError(
        f"strategy.horizon={text!r}: must be so many warmups of the learning rate (the base has "
        f"training.schedule.warmup_steps={base.training.schedule.warmup_steps}), a share of the run up to 100%, or like '150 steps'"
    )


def _duration_of(text: str, base: Config) -> Duration | None:
    share = _SHARE.match(text)
    if share is None:
        return parse_duration(text)
    amount, whole = float(share.group(1)), parse_duration(base.training.duration)
    if share.group(2) == "%":
        return Duration(whole.amount * amount / 100, whole.unit) if 0 < amount <= 100 else None
    steps = round(amount * base.training.schedule.warmup_steps)
    return Duration(steps, "steps") if steps else None


def spread_over(points: Sequence[Point], seeds: Sequence[int]) -> list[Trial]:
    """The trials of points, all seeds of one before the next."""
    return [Trial.of(point, seed) for point in points for seed in seeds]
