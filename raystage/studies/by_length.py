"""Gradients while sequences are short, beside the baseline's over the same tokens (SLW, 2108.06084, figures 1 and 4). Pure."""

import dataclasses
from collections.abc import Sequence

from raystage.config.study import Study
from raystage.studies.measured import Measured, Signals, lengths_of, signals_between
from raystage.studies.results import Runs, baseline_by_seed
from raystage.studies.runs import Losses, counted_runs
from raystage.studies.spread import Spread


@dataclasses.dataclass(frozen=True)
class AtLength:
    """Over the seeds: variance of the gradient norm, and the largest second moment of Adam; `base_...`: the baseline's there."""

    arm: str
    seq_len_tokens: int
    grad_norm_variance: Spread
    base_grad_norm_variance: Spread
    second_moment: Spread
    base_second_moment: Spread


def by_length(study: Study, losses: Losses, runs: Runs) -> list[AtLength]:
    """A row for each length of each arm that has several, the shortest first; none where the study does not ask."""
    if not study.keys.by_length:
        return []
    base = baseline_by_seed(study, losses, runs)
    rows = []
    for arm in study.arms:
        own = [(runs[run], base[run.seed]) for run in counted_runs(study, arm.name, losses) if losses[run] is not None and run.seed in base]
        places = [lengths_of(run) for run, _ in own]
        for length in sorted({length for each in places for length in each if len(each) > 1}):
            if row := _row(arm.name, length, [(*pair, each[length]) for pair, each in zip(own, places, strict=True) if length in each]):
                rows.append(row)
    return rows


def _row(arm: str, length: int, own: Sequence[tuple[Measured, Measured, tuple[float, float]]]) -> AtLength | None:
    pairs = [(signals_between(run, place), signals_between(base, place)) for run, base, place in own]
    known = [(one, other) for one, other in pairs if one and other]
    if not known:
        return None
    ours, theirs = zip(*known, strict=True)
    return AtLength(arm, length, *_spreads(ours, theirs, "grad_norm_variance"), *_spreads(ours, theirs, "second_moment"))


def _spreads(ours: Sequence[Signals], theirs: Sequence[Signals], key: str) -> tuple[Spread, Spread]:
    first, second = (Spread(tuple(getattr(signals, key) for signals in each)) for each in (ours, theirs))
    return first, second
