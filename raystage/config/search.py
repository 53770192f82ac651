"""The keys of `raystage tune`: a base configuration with overrides, a space in its keys, a strategy, an objective, constraints."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raystage.config.errors import ConfigError
from raystage.config.fields import STRICT, NonNegative, Positive
from raystage.config.load import applied, as_overrides, load, validated
from raystage.config.names import NAME
from raystage.config.parse import parse
from raystage.config.schema import Config
from raystage.config.search_space import Space, read_space

HELP = "raystage tune --help"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Strategy:
    kind: Literal["lightweight", "asha", "grid"] = Field(
        default="lightweight",
        description="lightweight: the smallest stable start length, then the longest stable warmup, by bisection (SLW); asha: Optuna's "
        "TPE, and trials that lag behind end early; grid: every point",
    )
    horizon: str | None = Field(
        default=None,
        description="where a trial stops: '3 warmups' (of the learning rate), '10%' (of the run), or as training.duration; "
        "null: 3 warmups for lightweight, else the whole run",
    )
    seeds: tuple[NonNegative, ...] = Field(
        default=(0,), min_length=1, description="of the trials of each point, in place of the base's seed"
    )
    n_points: Positive = Field(default=20, description="[points] that asha tries")
    reduction_factor: int = Field(default=3, ge=2, description="of asha: one in so many trials goes on past a rung")
    grace: float = Field(default=0.1, gt=0, le=1, description="share of the horizon before asha ends a trial")
    sampler_seed: NonNegative = Field(default=0, description="of asha's sampler")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Objective:
    kind: Literal["val_loss", "time_to_loss"] = Field(
        default="val_loss", description="validation loss at the full context, at the horizon; or what it takes to reach the loss below"
    )
    per: Literal["compute", "tokens", "seconds"] = Field(
        default="compute", description="what trials are given alike (val_loss), or what counts as time (time_to_loss)"
    )
    loss: float | None = Field(default=None, gt=0, description="validation loss to reach (time_to_loss)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Constraints:
    val_perplexity_ratio: float | None = Field(
        default=1.3,
        gt=1,
        description="validation perplexity over its best so far, above which a trial is unstable (SLW); null: not watched",
    )
    loss_ratio: float | None = Field(
        default=None, gt=1, description="mean training loss of an interval over the best so far, likewise; null: not watched"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Trials:
    max_concurrent: Positive | None = Field(default=None, description="[trials] side by side; null: as many as the cluster has room for")
    max_failures: NonNegative = Field(default=1, description="[restarts] of a trial that crashes, before it counts as failed")
    minutes: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="[minutes] after which the search stops; null: no limit"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Search:
    name: str = Field(
        default="search",
        min_length=1,
        max_length=60,
        pattern=NAME,
        description="of the search, and of its folder below the base's storage",
    )
    base: str = Field(default="tune_configs/quickstart.yaml", description="configuration that every trial begins from, as for train")
    strategy: Strategy = Field(default=Strategy(), description="which points are tried")
    objective: Objective = Field(default=Objective(), description="what makes one point better than another")
    constraints: Constraints = Field(default=Constraints(), description="what rejects a point, however good its objective")
    trials: Trials = Field(default=Trials(), description="how trials are run")


def read_search(path: Path, overrides: Iterable[str] = ()) -> tuple[Search, Space, Config]:
    """The search of a YAML file with overrides, its space, and its base. Raises ConfigError for what no trial could run with."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a YAML file, tune_configs/search/ has some") from None
    given = parse(text, str(path)) or {}
    if isinstance(given, Mapping) and {"model", "training"} & given.keys():
        raise ConfigError(f"{path}: is the configuration of a run: raystage train {path}; tune_configs/search/ has searches")
    tree: Any = applied(given, overrides)
    space_tree, changes = tree.pop("space", None), tree.pop("overrides", None) or {}
    search = validated(Search, tree, (), HELP)
    if not isinstance(changes, Mapping):
        raise ConfigError("overrides: must be a mapping of keys of the base to values, like training.batch_tokens: 2048")
    base, space = load(search.base, list(as_overrides(changes))), read_space(space_tree)
    _check(search)
    if "://" in base.storage:
        raise ConfigError(f"storage={base.storage}: trials of a search lie in a folder that all nodes share; give a path")
    return search, space, base


def _check(search: Search) -> None:
    objective = search.objective
    if objective.kind == "time_to_loss" and objective.loss is None:
        raise ConfigError("objective.loss=null: objective.kind=time_to_loss needs the validation loss to reach")
    if objective.kind == "val_loss" and objective.loss is not None:
        raise ConfigError(f"objective.loss={objective.loss}: only objective.kind=time_to_loss uses it")
    if len(set(search.strategy.seeds)) < len(search.strategy.seeds):
        raise ConfigError(f"strategy.seeds={list(search.strategy.seeds)}: one is given twice")
