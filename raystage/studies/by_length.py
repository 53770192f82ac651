"""Gradients while sequences are short, beside the baseline's over the same tokens (SLW, 2108.06084, figures 1 and 4). Pure."""

import dataclasses
from collections.abc import Sequence

from raystage.config.study import Study
from raystage.studies.measured import Measured, lengths_of, signals_between
from raystage.studies.results import Runs, paired
from raystage.studies.runs import Losses
from raystage.studies.spread import Spread, spread_of


@dataclasses.dataclass(frozen=True)
class AtLength:
    """Over the seeds: variance of the gradient norm, and the largest recorded second moment of Adam; `base_...`: the baseline's there."""

    arm: str
    seq_len_tokens: int
    n_seeds: int
    grad_norm_variance: Spread | None
    base_grad_norm_variance: Spread | None
    second_moment: Spread | None
    base_second_moment: Spread | None


def by_length(study: Study, losses: Losses, runs: Runs) -> list[AtLength]:
    """A row for each length of each arm that has several, the shortest first; none where the study does not ask."""
    if not study.keys.by_length:
        return []
    rows = []
    for arm in study.arms:
        pairs = [(run, base, lengths_of(run)) for run, base in paired(study, arm.name, study.keys.baseline, losses, runs)]
        for length in sorted({length for *_, places in pairs for length in places if len(places) > 1}):
            own = [(run, base, places[length]) for run, base, places in pairs if length in places]
            if row := _row(arm.name, length, own):
                rows.append(row)
    return rows


def _row(arm: str, length: int, own: Sequence[tuple[Measured, Measured, tuple[float, float]]]) -> AtLength | None:
    pairs = [(signals_between(run, place), signals_between(base, place)) for run, base, place in own]
    known = [(one, other) for one, other in pairs if one and other]
    if not known:
        return None
    ours, theirs = zip(*known, strict=True)
    return AtLength(
        arm,
        length,
        len(known),
        *(spread_of(signals.grad_norm_variance for signals in each) for each in (ours, theirs)),
        *(spread_of(signals.second_moment for signals in each) for each in (ours, theirs)),
    )
