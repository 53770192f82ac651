"""What a study reads of one run beside a report's digest: time without interruptions, and the gradients of each sequence length. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from raystage.report.columns import Columns, Values
from raystage.report.digest import Digest
from raystage.report.run import Run
from raystage.report.stages import Stage

_MIN_STEPS = 10  # of a stage whose median says something; shorter ones count where there is none


Shape = tuple[str, int, int, int, int]  # device, sequence length, tokens a step, layers, channels


@dataclasses.dataclass(frozen=True)
class Measured:
    """`train`: all training records of the run, shape (n,); `digest.stages` says which are whose.

    `seconds`: until the end of each step, (n,), every step counted as `seconds_by_shape` has it.
    """

    digest: Digest
    train: Columns
    seconds: Values

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
    """The first validation at or below a loss: FLOPs and seconds until then."""

    flops: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Signals:
    """Of the steps between two places. `second_moment`: Adam's largest entry there."""

    grad_norm_variance: float
    second_moment: float


def known(value: float | None) -> float:
    """It, or nan."""
    return np.nan if value is None else value


def measured(run: Run, digest: Digest, by_shape: Mapping[Shape, float]) -> Measured:
    """A run with the clock of its study."""
    steps_s = np.empty(len(run.train))
    for stage in digest.stages:
        steps_s[stage.first : stage.last + 1] = by_shape[_shape(digest, stage)]
    return Measured(digest, run.train, np.cumsum(steps_s))


def seconds_by_shape(runs: Iterable[tuple[Run, Digest]]) -> dict[Shape, float]:
    """Of one step: the least, over the runs, of the median step of a stage of that shape.

    So without validations, checkpoints, compilation and pauses, and as little as can be of what else the machine did: that only ever slows.
    """
    found: dict[Shape, list[tuple[bool, float]]] = {}
    for run, digest in runs:
        steps_s = np.diff(run.train["time_s"], prepend=0.0)
        for stage in digest.stages:
            settled = steps_s[stage.first + (stage.first < stage.last) : stage.last + 1]  # the first waits for the change of stage
            found.setdefault(_shape(digest, stage), []).append((len(settled) < _MIN_STEPS, float(np.median(settled))))
    return {shape: min(medians)[1] for shape, medians in found.items()}


def _shape(digest: Digest, stage: Stage) -> Shape:
    record = stage.record
    return digest.device, record["seq_len_tokens"], record["batch_tokens"], record["n_layer"], record["d_model"]


def reached(run: Measured, loss: float) -> Reached | None:
    """Where a run has come to this validation loss; None where it never does."""
    val = run.digest.val.known("val_loss")
    there = np.flatnonzero(val["val_loss"] <= loss)
    if not len(there):
        return None
    first = int(there[0])
    position = int(np.searchsorted(run.train["step"], val["step"][first], side="right")) - 1
    return Reached(float(val["flops"][first]), float(run.seconds[position]))


def lengths_of(run: Measured) -> dict[int, tuple[float, float]]:
    """By sequence length [tokens]: the tokens seen before its first step and after its last one, in the order of training."""
    tokens, places = run.train["tokens_seen"], dict[int, tuple[float, float]]()
    for stage in run.digest.stages:
        length, before = int(stage.record["seq_len_tokens"]), float(tokens[stage.first - 1]) if stage.first else 0.0
        places[length] = (min(places.get(length, (before,))[0], before), float(tokens[stage.last]))
    return places


def signals_between(run: Measured, tokens: tuple[float, float]) -> Signals | None:
    """Of the steps that end between these two places; None where these are fewer than two."""
    seen = run.train["tokens_seen"]
    inside = (tokens[0] < seen) & (seen <= tokens[1])
    grad_norms, moments = (run.train[key][inside] for key in ("grad_norm", "second_moment"))
    grad_norms, moments = grad_norms[np.isfinite(grad_norms)], moments[np.isfinite(moments)]
    if len(grad_norms) < 2:
        return None
    return Signals(float(np.var(grad_norms, ddof=1)), float(moments.max()) if len(moments) else np.nan)
