"""What a run came to, in a handful of numbers, each with the records it is from."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from raystage.report.cited import Cited, among, at, derived
from raystage.report.columns import Columns, Values
from raystage.report.run import Run
from raystage.report.stability import UNSTABLE_RATIO
from raystage.report.stages import Stage, total


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of a whole run. `static_flops`: FLOPs per token measured over the last stage, times all tokens of the run."""

    val_loss: Cited
    perplexity: Cited
    tokens: Cited
    flops: Cited
    time_s: Cited
    static_flops: Cited
    share_of_static: Cited
    tokens_per_s: Cited
    mfu: Cited
    worst_loss_ratio: Cited
    n_unstable: Cited
    n_not_finite: Cited
    largest_grad_norm: Cited
    largest_second_moment: Cited


def facts_of(run: Run, stages: Sequence[Stage], ratios: Values) -> Facts:
    """`ratios`: the loss ratio of each training record."""
    train = run.train
    val_loss = at(run.val, -1, "val_loss") if len(run.val) else Cited(None, "val", "val_loss", ())
    loss = val_loss.value
    tokens, flops = total(stages, "tokens_seen"), total(stages, "flops")
    last = stages[-1].spent
    static_flops = _value(last["flops"]) / _value(last["tokens_seen"]) * _value(tokens)
    n_unstable = int(np.count_nonzero(ratios > UNSTABLE_RATIO))
    n_not_finite = int(np.count_nonzero(np.isnan(train["loss"])))
    return Facts(
        val_loss=val_loss,
        perplexity=derived(math.exp(loss) if loss is not None and loss < math.log(1e9) else None, [val_loss], "val_loss", "exp of it"),
        tokens=tokens,
        flops=flops,
        time_s=total(stages, "time_s"),
        static_flops=derived(
            static_flops, [last["flops"], tokens], "flops, tokens_seen", "FLOPs a token of the last stage, times all tokens"
        ),
        share_of_static=derived(
            _value(flops) / static_flops, [last["flops"], tokens], "flops, tokens_seen", "FLOPs over the static target's"
        ),
        tokens_per_s=_median(train, "tokens_per_s"),
        mfu=_median(train, "mfu"),
        worst_loss_ratio=_largest(train, ratios, "loss", "over the smallest loss of all steps before it"),
        n_unstable=among(train, "loss", f"steps with more than {UNSTABLE_RATIO} times the smallest loss before", n_unstable),
        n_not_finite=among(train, "loss", "steps where it is null, which is not finite", n_not_finite),
        largest_grad_norm=_largest(train, train["grad_norm"], "grad_norm", "the largest of all steps"),
        largest_second_moment=_largest(train, train["second_moment"], "second_moment", "the largest of all steps that have it"),
    )


def _value(cited: Cited) -> float:
    assert cited.value is not None
    return cited.value


def _median(train: Columns, key: str) -> Cited:
    known = train[key][np.isfinite(train[key])]
    return among(train, key, "median over all steps", float(np.median(known)) if len(known) else None)


def _largest(train: Columns, values: Values, key: str, how: str) -> Cited:
    if not np.isfinite(values).any():
        return among(train, key, how, None)
    position = int(np.nanargmax(values))
    return Cited(float(values[position]), "train", key, (train.step(position),), how)
