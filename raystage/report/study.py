"""Runs against a baseline: what each spent until its validation loss was the baseline's final one, and the losses at equal compute."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from raystage.config.errors import ConfigError
from raystage.report.cited import Cited, at, derived
from raystage.report.columns import Columns, Values
from raystage.report.digest import Digest
from raystage.report.stages import CLOCKS


@dataclasses.dataclass(frozen=True)
class Comparison:
    """By clock: `needed` until the baseline's final validation loss (None: not reached), and the share of the baseline's `saved`.

    `equal`: at the last validation of the one that spent less, `flops`, there the validation `loss` and the `baseline_loss`, and by how
    much the run's is `lower`.
    """

    name: str
    needed: dict[str, Cited] | None
    saved: dict[str, Cited] | None
    equal: dict[str, Cited] | None


@dataclasses.dataclass(frozen=True)
class Study:
    baseline: str
    target: Cited
    rows: list[Comparison]


def baseline_index(names: Sequence[str], baseline: str | None) -> int:
    """Which run it is, the first by default. Raises ConfigError for a name that is not there."""
    if baseline is None:
        return 0
    if baseline not in names:
        raise ConfigError(f"--baseline {baseline}: not among the runs of the report; one of {', '.join(names)}")
    return names.index(baseline)


def study_of(runs: Sequence[Digest], index: int) -> Study | None:
    """Of several runs; None of one alone, or where the baseline has no finite final validation loss."""
    baseline = runs[index]
    target = baseline.facts.val_loss
    if len(runs) < 2 or target.value is None:
        return None
    needed = _needed(baseline, target)
    assert needed is not None, "it reaches its own final loss"
    return Study(baseline.name, target, [_comparison(run, needed, baseline, target) for run in runs])


def _comparison(run: Digest, spent: dict[str, Cited], baseline: Digest, target: Cited) -> Comparison:
    needed = _needed(run, target)
    saved = None if needed is None else {clock: _saved(needed[clock], spent[clock]) for clock in CLOCKS}
    return Comparison(run.name, needed, saved, _equal(run, baseline))


def _equal(run: Digest, baseline: Digest) -> dict[str, Cited] | None:
    shorter = min((run, baseline), key=_last_flops)
    flops = _last_flops(shorter)
    loss, other = _loss_at(run, flops), _loss_at(baseline, flops)
    if loss is None or other is None or loss.value is None or other.value is None:
        return None
    spent = _less_base(at(shorter.val, -1, "flops", f"of {shorter.name}"), shorter)
    lower = derived(other.value - loss.value, [loss, other], "val_loss", "the baseline's less this run's")
    return {"flops": spent, "loss": loss, "baseline_loss": other, "lower": lower}


def _last_flops(run: Digest) -> float:
    """The compute of its last validation."""
    return float(run.val["flops"][-1] - run.base["flops"]) if len(run.val) else 0.0


def _saved(needed: Cited, spent: Cited) -> Cited:
    assert needed.value is not None
    how = f"1 - {needed.value!r} / {spent.value!r}, of this run over the baseline's, both by the first crossing"
    return derived(1 - needed.value / spent.value if spent.value else None, [needed], needed.key, how)


def _needed(run: Digest, target: Cited) -> dict[str, Cited] | None:
    """What the run had spent where its validation loss first was the target, on a straight line between the validations around it."""
    val, loss = run.val.known("val_loss"), target.value
    assert loss is not None
    below = np.flatnonzero(val["val_loss"] <= loss)
    if not len(below):
        return None
    after = int(below[0])
    if after == 0:
        return {clock: _less_base(at(val, 0, clock, "the first validation, already there"), run) for clock in CLOCKS}
    high, low = val["val_loss"][after - 1], val["val_loss"][after]
    share = float((high - loss) / (high - low))
    return {clock: _less_base(_between(val, clock, after, share), run) for clock in CLOCKS}


def _loss_at(run: Digest, flops: float) -> Cited | None:
    """The validation loss at this compute, on a straight line between two validations; None beyond the last or before the first."""
    val = run.val.known("val_loss")
    spent: Values = val["flops"] - run.base["flops"]
    if not len(val) or not spent[0] <= flops <= spent[-1]:
        return None
    after = int(np.searchsorted(spent, flops))
    if spent[after] == flops:
        return at(val, after, "val_loss")
    return _between(val, "val_loss", after, float((flops - spent[after - 1]) / (spent[after] - spent[after - 1])))


def _between(val: Columns, key: str, after: int, share: float) -> Cited:
    before, behind = at(val, after - 1, key), at(val, after, key)
    assert before.value is not None
    assert behind.value is not None
    how = f"{share:.4g} of the way from the one to the other"
    return derived(before.value + share * (behind.value - before.value), [before, behind], key, how)


def _less_base(cited: Cited, run: Digest) -> Cited:
    assert cited.value is not None
    base = run.base[cited.key]
    return dataclasses.replace(cited, value=cited.value - base, how=cited.how + "; less what the run began with") if base else cited
