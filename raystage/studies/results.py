"""What the runs of a study say: each arm's figures over its seeds, and against the baseline. Pure."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raystage.config.study import Study
from raystage.report.digest import Digest
from raystage.studies.equal_loss import Curve, compute_for, smoothed
from raystage.studies.runs import Losses, StudyRun, chosen_factor, is_at_edge, runs_of

Digests = Mapping[StudyRun, Digest]
# two-sided 95% of Student's t by degrees of freedom; beyond, the normal one
_T95 = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Values over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation; None of one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_interval(self) -> float | None:
        """Half of the 95% interval of the mean, by Student's t; None of one value."""
        n = len(self.values)
        return None if self.deviation is None else (_T95[n - 1] if n <= len(_T95) else 1.96) * self.deviation / math.sqrt(n)


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """`share`: of the baseline's FLOPs. `difference`: of the final validation loss, less the baseline's of the same seed.

    `saved`: for each level, 1 - the arm's FLOPs over those that the baseline takes for the same loss; None where that is not known.
    `extra`: more columns by key; `zeroshot`: measurements of the final models by name.
    """

    name: str
    says: str
    factor: float | None
    at_edge: bool
    n_failed: int
    loss: Spread | None = None
    tokens: Spread | None = None
    flops: Spread | None = None
    seconds: Spread | None = None
    share: Spread | None = None
    difference: Spread | None = None
    saved: tuple[Spread | None, ...] = ()
    extra: Mapping[str, Spread] = dataclasses.field(default_factory=dict)
    zeroshot: Mapping[str, Spread] = dataclasses.field(default_factory=dict)


def results_of(study: Study, losses: Losses, digests: Digests) -> list[ArmResult]:
    """One an arm, in the study's order."""
    reference = _reference(study, losses, digests)
    return [_result(study, arm.name, losses, digests, reference) for arm in study.arms]


def _result(study: Study, name: str, losses: Losses, digests: Digests, reference: Curve | None) -> ArmResult:
    runs, factor = runs_of(study, name, losses), chosen_factor(study, name, losses)
    head = ArmResult(
        name=name,
        says=study.arm(name).keys.says,
        factor=factor,
        at_edge=factor is not None and is_at_edge(study, factor),
        n_failed=0 if factor is None else sum(losses.get(StudyRun(name, factor, seed), 0.0) is None for seed in study.keys.seeds),
    )
    if not runs:
        return head
    own = [digests[run] for run in runs]
    base = {run.seed: digests[run] for run in runs_of(study, study.keys.baseline, losses)}
    paired = [(digests[run], base[run.seed]) for run in runs if run.seed in base]
    return dataclasses.replace(
        head,
        loss=_over(own, final_loss),
        tokens=_over(own, lambda digest: _known(digest.facts.tokens.value)),
        flops=_over(own, flops_of),
        seconds=_over(own, lambda digest: _known(digest.facts.time_s.value)),
        share=Spread(tuple(flops_of(one) / flops_of(other) for one, other in paired)) if paired else None,
        difference=Spread(tuple(final_loss(one) - final_loss(other) for one, other in paired)) if paired else None,
        saved=tuple(_saved(study, own, reference, level) for level in study.keys.levels),
        extra={key: _over(own, lambda digest, key=key: _known(getattr(digest.facts, key).value)) for key in study.keys.columns},  # type: ignore[misc]
        zeroshot=_zeroshot(own),
    )


def final_loss(digest: Digest) -> float:
    """The last validation's."""
    return _known(digest.facts.val_loss.value)


def flops_of(digest: Digest) -> float:
    """Of the whole run, every stage charged."""
    return _known(digest.facts.flops.value)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _over(digests: Sequence[Digest], value: Callable[[Digest], float]) -> Spread:
    return Spread(tuple(value(digest) for digest in digests))


def _reference(study: Study, losses: Losses, digests: Digests) -> Curve | None:
    """Compute against loss of the baseline's kind: its validations, or the ends of runs with other budgets; mean over seeds."""
    keys = study.keys
    if keys.reference == "curve":
        curves = [curve_of(digests[run]) for run in runs_of(study, keys.baseline, losses)]
        return smoothed(_mean_curve(curves)) if curves else None
    ends = []
    for arm in keys.reference:
        runs = [digests[run] for run in runs_of(study, arm, losses)]
        if runs:
            ends.append((statistics.fmean(map(flops_of, runs)), statistics.fmean(map(final_loss, runs))))
    ends.sort()
    return Curve(np.array([flops for flops, _ in ends]), np.array([loss for _, loss in ends])) if len(ends) > 1 else None


def curve_of(digest: Digest) -> Curve:
    """A run's validations over its FLOPs."""
    val = digest.val.known("val_loss")
    return Curve(val["flops"], val["val_loss"])


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Of runs that validate at the same places."""
    n = min(len(curve.flops) for curve in curves)
    return Curve(_mean([curve.flops[:n] for curve in curves]), _mean([curve.losses[:n] for curve in curves]))


def _mean(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean(columns, axis=0)
    return mean


def _saved(study: Study, own: Sequence[Digest], reference: Curve | None, level: float) -> Spread | None:
    if reference is None:
        return None
    shares = []
    for digest in own:
        if study.keys.reference == "curve":
            target = float(np.interp(level * reference.flops[-1], reference.flops, reference.losses))
            spent, needed = compute_for(smoothed(curve_of(digest)), target), compute_for(reference, target)
        else:
            spent, needed = flops_of(digest), compute_for(reference, final_loss(digest))
        if spent is None or needed is None:
            return None
        shares.append(1 - spent / needed)
    return Spread(tuple(shares))


def _zeroshot(own: Sequence[Digest]) -> dict[str, Spread]:
    found: dict[str, list[float]] = {}
    for digest in own:
        for evaluated in digest.evaluations:
            for figure, cited in evaluated.figures.items():
                found.setdefault(figure, []).append(_known(cited.value))
    return {figure: Spread(tuple(values)) for figure, values in found.items()}
