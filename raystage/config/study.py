"""The keys of `raystage reproduce`: a question, arms that answer it, and the sizes at which they are run."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raystage.config.duration import parse_duration
from raystage.config.errors import ConfigError
from raystage.config.fields import STRICT, NonNegative, Positive
from raystage.config.load import applied, as_overrides, from_tree, load, to_tree, validated
from raystage.config.names import NAME, shortened
from raystage.config.parse import parse
from raystage.config.schema import Config

HELP = "raystage reproduce --help"
_OWN_OF_RUNS = ("name", "seed", "storage", "storage_cache", "training.duration", "training.optimizer.lr", "training.stop_at")
_ALIKE = ("data", "model", "validation", "evaluation", "init_from", "runtime", "checkpoint", "tracking", "sample")  # in all arms
_MOST_CHARACTERS = 40
Factor = Annotated[float, Field(gt=0)]
Column = Literal["perplexity", "worst_loss_ratio", "n_unstable", "largest_grad_norm", "largest_second_moment"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Zeroshot:
    texts: tuple[str, ...] = Field(default=(), description="text files for perplexity of every final model")
    lambada: str | None = Field(default=None, description="file of JSON lines for LAMBADA; null: none")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StudyKeys:
    name: str = Field(default="study", min_length=1, max_length=40, pattern=NAME, description="of the study, and of its folder")
    question: str = Field(default="", description="what it asks, in a sentence")
    baseline: str = Field(default="static", description="arm that the others are measured against")
    reference: tuple[str, ...] | Literal["curve"] | None = Field(
        default=None,
        description="what equal loss would have cost: the baseline and the same with other budgets; "
        "curve: the baseline's own validations, where its learning rate does not decay; null: not asked",
    )
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.5, 0.9),
        min_length=1,
        description="shares of the baseline's compute at whose loss an arm's compute is compared (reference: curve)",
    )
    learning_rates: tuple[Factor, ...] = Field(
        default=(0.5, 1.0, 2.0), min_length=1, description="of every arm: factors of training.optimizer.lr, tried with the first seed"
    )
    trial_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="of an arm's budget over which its rates are tried, the baseline's always whole; a whole try is the first seed's run",
    )
    seeds: tuple[NonNegative, ...] = Field(default=(1, 2, 3), min_length=1, description="of the runs of every arm")
    at_once: Positive | None = Field(default=None, description="[runs] side by side; null: one a CPU core, or one a GPU")
    zeroshot: Zeroshot = Field(default=Zeroshot(), description="what is measured of final models beside the validation loss")
    columns: tuple[Column, ...] = Field(default=(), description="more of every run, for the table")
    by_length: bool = Field(default=False, description="a table of gradient norms and Adam's second moments by sequence length")
    axis: Literal["flops", "tokens_seen"] = Field(default="flops", description="of the picture of validation losses")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Shares:
    """As fractions of the target's, written like 1/8."""

    lengths: tuple[str | int, ...] | None = Field(default=None, description="pacing.lengths over model.context_length")
    depths: tuple[str | int, ...] | None = Field(default=None, description="pacing.depths over model.n_layer")
    widths: tuple[str | int, ...] | None = Field(default=None, description="pacing.widths over model.d_model")
    batches: tuple[str | int, ...] | None = Field(default=None, description="pacing.batches over training.batch_tokens")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ArmKeys:
    says: str = Field(default="", description="what it does, in a few words")
    budget: str = Field(
        default="100% tokens",
        pattern=r"^[0-9]+(\.[0-9]+)?% (tokens|steps|flops)$",
        description="of the base's duration: as many tokens, steps, or FLOPs as the target at full context would spend on it",
    )
    depth: str | int | None = Field(
        default=None,
        description="a control that grows into nothing: model.n_layer of the whole run over the target's, like 1/4; null: the target's",
    )
    width: str | int | None = Field(default=None, description="the same for model.d_model, its heads in proportion; null: the target's")
    against: tuple[str, ...] = Field(default=(), description="arms that it is compared with, seed by seed, beside the baseline")
    rate_of: str | None = Field(default=None, description="arm whose learning rate it takes; null: it is tried out")
    shares: Shares = Field(default=Shares(), description="pacing lists relative to the target, so that they fit every size")


@dataclasses.dataclass(frozen=True)
class Arm:
    """`overrides`: of the base, of its size already."""

    name: str
    keys: ArmKeys
    overrides: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """One size of it. `base`: what all runs have in common."""

    keys: StudyKeys
    size: str
    base: Config
    arms: tuple[Arm, ...]

    @property
    def name(self) -> str:
        return f"{self.keys.name}-{self.size}"

    @property
    def ends(self) -> tuple[str, ...]:
        """Arms of the reference whose ends tell what equal loss would have cost."""
        return () if self.keys.reference in (None, "curve") else tuple(self.keys.reference)

    def arm(self, name: str) -> Arm:
        """The one of this name."""
        return next(arm for arm in self.arms if arm.name == name)


def read_study(path: Path, size: str, overrides: Iterable[str] = ()) -> Study:
    """The study of a YAML file at one of its sizes. Raises ConfigError for what no run could have."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a YAML file, tune_configs/reproduce/ has some") from None
    tree = applied(parse(text, str(path)) or {}, overrides)
    sizes, arms = (_mappings(tree.pop(key, None), key) for key in ("sizes", "arms"))
    keys = validated(StudyKeys, tree, (), HELP)
    if size not in sizes:
        raise ConfigError(f"--size {size}: {path} has {', '.join(sizes) or 'no sizes'}")
    base = _base(size, sizes[size])
    study = Study(keys, size, base, tuple(_arm(name, arm, base) for name, arm in arms.items()))
    _check(study)
    return study


def _base(size: str, tree: dict[str, Any]) -> Config:
    """What all runs of a size begin from."""
    path = tree.pop("base", None)
    if not isinstance(path, str):
        raise ConfigError(f"sizes.{size}.base: must name the configuration that every run begins from, as for train")
    try:
        base = load(path, list(as_overrides(tree)))
    except ConfigError as error:
        raise ConfigError(f"sizes.{size}: {error}") from None
    if parse_duration(base.training.duration).unit == "hours":
        raise ConfigError(
            f"sizes.{size}: training.duration={base.training.duration}: budgets are shares of tokens, steps or FLOPs; give one of these"
        )
    if base.training.stop_at is not None:
        raise ConfigError(f"sizes.{size}: training.stop_at={base.training.stop_at}: runs of a study go to their end; leave it out")
    if "://" in base.storage:
        raise ConfigError(f"sizes.{size}: storage={base.storage}: the runs of a study lie in a folder of this machine; give a path")
    return base


def _mappings(tree: Any, key: str) -> dict[str, dict[str, Any]]:
    if not isinstance(tree, Mapping) or not all(isinstance(value, Mapping | None) for value in tree.values()):
        raise ConfigError(f"{key}: must be a mapping of names to keys, like {key}: {{small: {{}}}}")
    return {str(name): dict(value or {}) for name, value in tree.items()}


def _arm(name: str, tree: dict[str, Any], base: Config) -> Arm:
    if not re.fullmatch(NAME, name) or len(name) > _MOST_CHARACTERS:
        raise ConfigError(f"arms.{shortened(name)}: must be a name of letters, digits and ._-, of at most {_MOST_CHARACTERS}")
    changes = tree.pop("set", None) or {}
    if not isinstance(changes, Mapping):
        raise ConfigError(f"arms.{name}.set: must be a mapping of keys of a run to values, like pacing.rule: linear")
    try:
        keys = validated(ArmKeys, tree, (), HELP)
        overrides = (*_lists(keys.shares, base), *as_overrides(changes))
        for key in (override.partition("=")[0] for override in overrides):
            if key in _OWN_OF_RUNS:
                raise ConfigError(f"set.{key}: the study sets it itself; budget and learning_rates are for that")
            if key.partition(".")[0] in _ALIKE:
                raise ConfigError(f"set.{key}: must be alike in all arms, or they could not be compared; set it in the size")
        if float(keys.budget.partition("%")[0]) <= 0:
            raise ConfigError(f"budget={keys.budget}: must be above 0%")
        overrides = (*_smaller(keys, base), *overrides)
        from_tree(to_tree(base), overrides)
    except ConfigError as error:
        raise ConfigError(f"arms.{name}: {error}") from None
    return Arm(name, keys, overrides)


def _smaller(keys: ArmKeys, base: Config) -> Iterable[str]:
    model = base.model
    if keys.depth is not None:
        yield f"model.n_layer={_of(keys.depth, model.n_layer, 'depth')}"
    if keys.width is not None:
        d_model = _of(keys.width, model.d_model, "width")
        given = {"n_head": model.n_head, "n_kv_head": model.n_kv_head, "d_ff": model.d_ff}
        yield f"model.d_model={d_model}"
        yield from (f"model.{key}={whole * d_model // model.d_model}" for key, whole in given.items() if whole is not None)


def _lists(shares: Shares, base: Config) -> Iterable[str]:
    wholes = {
        "lengths": base.model.context_length,
        "depths": base.model.n_layer,
        "widths": base.model.d_model,
        "batches": base.training.batch_tokens,
    }
    for key, whole in wholes.items():
        given = getattr(shares, key)
        if given is not None:
            yield f"pacing.{key}={[_of(share, whole, f'shares.{key}') for share in given]}"


def _of(share: str | int, whole: int, key: str) -> int:
    """That share of a whole number; of layers and the like at least one, but for a share of 0."""
    try:
        fraction = Fraction(share)
    except (ValueError, ZeroDivisionError):
        fraction = Fraction(-1)
    if not 0 <= fraction <= 1:
        raise ConfigError(f"{key}={share!r}: must be a share of the target's from 0 to 1, like 1/8")
    return max(round(fraction * whole), 1 if fraction else 0)


def _check(study: Study) -> None:
    names, keys = [arm.name for arm in study.arms], study.keys
    if not names:
        raise ConfigError("arms: must have at least one, the baseline")
    named = {"baseline": [keys.baseline], "reference": list(study.ends)}
    named |= {f"arms.{arm.name}.rate_of": [arm.keys.rate_of] for arm in study.arms if arm.keys.rate_of}
    named |= {f"arms.{arm.name}.against": list(arm.keys.against) for arm in study.arms}
    for key, mentioned in named.items():
        odd = [name for name in mentioned if name not in names]
        if odd:
            raise ConfigError(f"{key}={odd[0]}: no such arm; one of {', '.join(names)}")
    if keys.reference == "curve" and study.base.training.schedule.kind != "constant":
        raise ConfigError(
            f"reference=curve: needs training.schedule.kind=constant, not {study.base.training.schedule.kind}, whose rate has not decayed "
            "where the curve is read; name arms with other budgets"
        )
    if keys.reference not in (None, "curve") and (len(study.ends) < 2 or keys.baseline not in study.ends):
        raise ConfigError(f"reference={list(study.ends)}: must be the baseline, {keys.baseline}, and the same with another budget, or more")
    for name in study.ends:
        if study.arm(name).overrides != study.arm(keys.baseline).overrides:
            raise ConfigError(f"reference={name}: must be {keys.baseline} with another budget; this arm differs in more")
    for arm in study.arms:
        if arm.name in arm.keys.against:
            raise ConfigError(f"arms.{arm.name}.against={arm.name}: is the arm itself; name another one")
        if arm.keys.rate_of and study.arm(arm.keys.rate_of).keys.rate_of:
            raise ConfigError(f"arms.{arm.name}.rate_of={arm.keys.rate_of}: that arm takes another's rate; name the one that is tried out")
    if len(set(keys.seeds)) < len(keys.seeds) or len(set(keys.learning_rates)) < len(keys.learning_rates):
        raise ConfigError("seeds, learning_rates: one is given twice")
