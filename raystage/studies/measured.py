"""What a study reads of one run beside a report's digest: time without interruptions, and the gradients of each sequence length. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from raystage.report.columns import Columns, Values
from raystage.report.digest import Digest
from raystage.report.run import Run
from raystage.report.stages import Stage

_QUICK_SHARE = 0.02


Kind = tuple[str, ...]  # what an arm changes beside its plan, like the optimizer: a step of the same shape may then take another time
Shape = tuple[Kind, str, int, int, int, int]  # device, sequence length, tokens a step, layers, channels


@dataclasses.dataclass(frozen=True)
class Measured:
    """`train`: all training records of the run, shape (n,); `digest.stages` says which are whose.

    `seconds`: until the end of each step, (n,), every step counted as `seconds_by_shape` has it.
    """

    digest: Digest
    train: Columns
    seconds: Values

    @property
    def device(self) -> str:
        """What it was trained on."""
        return self.digest.device

    @property
    def final_loss(self) -> float:
        """The last validation's [nats a token]."""
        return known(self.digest.facts.val_loss.value)

    @property
    def flops(self) -> float:
        """Of the whole run, every stage charged."""
        return known(self.digest.facts.flops.value)

    @property
    def tokens(self) -> float:
        """Trained on."""
        return known(self.digest.facts.tokens.value)


@dataclasses.dataclass(frozen=True)
class Reached:
    """The first validation at or below a loss: FLOPs and seconds of the run until then."""

    flops: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Signals:
    """Of the steps between two places. `second_moment`: Adam's largest entry of those recorded there; None where none is."""

    grad_norm_variance: float
    second_moment: float | None


def known(value: float | None) -> float:
    """It, or nan."""
    return np.nan if value is None else value


def measured(run: Run, digest: Digest, kind: Kind, by_shape: Mapping[Shape, float]) -> Measured:
    """A run with the clock of its study."""
    steps_s = np.empty(len(run.train))
    for stage in digest.stages:
        steps_s[stage.first : stage.last + 1] = by_shape[_shape(digest, stage, kind)]
    return Measured(digest, run.train, np.cumsum(steps_s))


def seconds_by_shape(runs: Iterable[tuple[Run, Digest, Kind]]) -> dict[Shape, float]:
    """Of one step of each shape: what only one in fifty is faster than, over all steps of all `runs`. A record's time is a mean since the
    last check, ten steps as a rule.

    So without validations, checkpoints, compilation and pauses, and with little of what else the machine did, which only ever slows. A
    quantile, since the least of many runs would be less than that of the few which a shape of one arm alone has.
    """
    found: dict[Shape, list[Values]] = {}
    for run, digest, kind in runs:
        tokens = np.diff(run.train["tokens_seen"], prepend=digest.base["tokens_seen"])
        steps_s = tokens / run.train["tokens_per_s"]
        for stage in digest.stages:
            own = steps_s[stage.first : stage.last + 1]
            found.setdefault(_shape(digest, stage, kind), []).append(own[np.isfinite(own) & (own > 0)])
    return {shape: _quick(np.concatenate(parts)) for shape, parts in found.items()}


def _quick(steps_s: Values) -> float:
    return float(np.quantile(steps_s, _QUICK_SHARE)) if len(steps_s) else np.nan


def _shape(digest: Digest, stage: Stage, kind: Kind) -> Shape:
    record = stage.record
    return kind, digest.device, record["seq_len_tokens"], record["batch_tokens"], record["n_layer"], record["d_model"]


def reached(run: Measured, loss: float) -> Reached | None:
    """Where a run has come to this validation loss; None where it never does."""
    val = run.digest.val.known("val_loss")
    there = np.flatnonzero(val["val_loss"] <= loss)
    if not len(there):
        return None
    first = int(there[0])
    position = int(np.searchsorted(run.train["step"], val["step"][first], side="right")) - 1
    return Reached(float(val["flops"][first]) - run.digest.base["flops"], float(run.seconds[position]))


def lengths_of(run: Measured) -> dict[int, tuple[float, float]]:
    """By sequence length [tokens]: the tokens seen before its first step and after its last one, in the order of training.

    Of the last time that it was trained, where a rollback came between.
    """
    tokens, places, newest = run.train["tokens_seen"], dict[int, tuple[float, float]](), None
    for stage in run.digest.stages:
        length, before = int(stage.record["seq_len_tokens"]), float(tokens[stage.first - 1]) if stage.first else 0.0
        places[length] = (places[length][0] if length == newest else before, float(tokens[stage.last]))
        newest = length
    return places


def signals_between(run: Measured, tokens: tuple[float, float]) -> Signals | None:
    """Of the steps that end between these two places; None where these are fewer than two."""
    seen = run.train["tokens_seen"]
    inside = (tokens[0] < seen) & (seen <= tokens[1])
    grad_norms, moments = (run.train[key][inside] for key in ("grad_norm", "second_moment"))
    grad_norms, moments = grad_norms[np.isfinite(grad_norms)], moments[np.isfinite(moments)]
    if len(grad_norms) < 2:
        return None
    return Signals(float(np.var(grad_norms, ddof=1)), float(moments.max()) if len(moments) else None)
