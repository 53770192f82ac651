"""What the runs of a study say: each arm's figures over its seeds, and against the baseline of the same seed. Pure."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from raystage.config.study import Study
from raystage.report.digest import Digest
from raystage.studies.changes import changes_of
from raystage.studies.equal_loss import Bound, Curve, compute_between, compute_for, loss_at
from raystage.studies.runs import Losses, StudyRun, chosen_factor, counted_runs, is_at_edge, trials_of
from raystage.studies.spread import Spread

Digests = Mapping[StudyRun, Digest]


@dataclasses.dataclass(frozen=True)
class Saved:
    """1 - an arm's FLOPs over those that the baseline of the same seed takes for the same loss; `level`: for that of this share of its run.

    `bound`: where some seeds lie beyond what the reference knows.
    """

    spread: Spread
    bound: Bound = ""
    level: float | None = None


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """`n_ended` of `n_wanted` runs at its rate have ended, `n_diverged` of them badly: `extra` counts these too, the rest does not.

    `share`: of the baseline's FLOPs. `difference`: of the final validation loss, less the baseline's of the same seed.
    `trials`: loss by factor of the rates that have been tried, None where it diverged. `extra`: more columns by key; `zeroshot`:
    measurements of the final models by name; `changes`: of stage, in words.
    """

    name: str
    says: str
    is_variant: bool
    factor: float | None
    at_edge: bool
    n_wanted: int
    n_ended: int
    n_diverged: int
    trials: Mapping[float, float | None] = dataclasses.field(default_factory=dict)
    loss: Spread | None = None
    tokens: Spread | None = None
    flops: Spread | None = None
    seconds: Spread | None = None
    share: Spread | None = None
    difference: Spread | None = None
    saved: tuple[Saved, ...] = ()
    extra: Mapping[str, Spread] = dataclasses.field(default_factory=dict)
    zeroshot: Mapping[str, Spread] = dataclasses.field(default_factory=dict)
    changes: str = ""


def results_of(study: Study, losses: Losses, digests: Digests) -> list[ArmResult]:
    """One an arm, in the study's order."""
    return [_result(study, arm.name, losses, digests) for arm in study.arms]


def _result(study: Study, name: str, losses: Losses, digests: Digests) -> ArmResult:
    ended, factor = counted_runs(study, name, losses), chosen_factor(study, name, losses)
    good = [run for run in ended if losses[run] is not None]
    arm = study.arm(name)
    head = ArmResult(
        name=name,
        says=arm.keys.says,
        is_variant=not arm.overrides,
        factor=factor,
        at_edge=factor is not None and is_at_edge(study, factor),
        n_wanted=len(study.keys.seeds),
        n_ended=len(ended),
        n_diverged=len(ended) - len(good),
        trials={run.factor: losses[run] for run in trials_of(study, name) if run in losses and arm.keys.rate_of is None},
        extra=_extra(study, [digests[run] for run in ended]),
    )
    if not good:
        return head
    own = [digests[run] for run in good]
    base = _by_seed(study, study.keys.baseline, losses, digests)
    paired = [(digests[run], base[run.seed]) for run in good if run.seed in base]
    return dataclasses.replace(
        head,
        loss=_over(own, final_loss),
        tokens=_over(own, lambda digest: _known(digest.facts.tokens.value)),
        flops=_over(own, flops_of),
        seconds=_over(own, lambda digest: _known(digest.facts.time_s.value)),
        share=Spread(tuple(flops_of(one) / flops_of(other) for one, other in paired)) if paired else None,
        difference=Spread(tuple(final_loss(one) - final_loss(other) for one, other in paired)) if paired else None,
        saved=_saved_by_ends(study, good, losses, digests) if study.ends else _saved_by_curve(study, paired),
        zeroshot=_zeroshot(own),
        changes=changes_of([digest.decisions for digest in own], [digest.last_step for digest in own]),
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


def _extra(study: Study, ended: Sequence[Digest]) -> dict[str, Spread]:
    values = {key: tuple(_known(getattr(digest.facts, key).value) for digest in ended) for key in study.keys.columns}
    return {key: Spread(known) for key, known in values.items() if known}


def _by_seed(study: Study, arm: str, losses: Losses, digests: Digests) -> dict[int, Digest]:
    return {run.seed: digests[run] for run in counted_runs(study, arm, losses) if losses[run] is not None}


def _saved_by_ends(study: Study, good: Sequence[StudyRun], losses: Losses, digests: Digests) -> tuple[Saved, ...]:
    """Of the seeds that every arm of the reference has; the reference of a seed is of its runs alone."""
    reference = [_by_seed(study, arm, losses, digests) for arm in study.ends]
    shares, bounds = [], set[Bound]()
    for run in good:
        if all(run.seed in each for each in reference):
            ends = [(flops_of(each[run.seed]), final_loss(each[run.seed])) for each in reference]
            needed, bound = compute_between(ends, final_loss(digests[run]))
            shares.append(1 - flops_of(digests[run]) / needed)
            bounds.add(bound)
    bounds.discard("")
    if not shares or len(bounds) > 1:
        return ()
    return (Saved(Spread(tuple(shares)), bounds.pop() if bounds else ""),)


def _saved_by_curve(study: Study, paired: Sequence[tuple[Digest, Digest]]) -> tuple[Saved, ...]:
    if study.keys.reference is None:
        return ()
    found = []
    for level in study.keys.levels:
        shares = [share for one, other in paired if (share := _saved_at(curve_of(one), curve_of(other), level)) is not None]
        if shares and len(shares) == len(paired):
            found.append(Saved(Spread(tuple(shares)), level=level))
    return tuple(found)


def _saved_at(own: Curve, base: Curve, level: float) -> float | None:
    flops = level * float(base.flops[-1])
    loss = loss_at(base, flops)
    spent = None if loss is None else compute_for(own, loss)
    return None if spent is None else 1 - spent / flops


def curve_of(digest: Digest) -> Curve:
    """A run's validations over its FLOPs."""
    val = digest.val.known("val_loss")
    return Curve(val["flops"], val["val_loss"])


def _zeroshot(own: Sequence[Digest]) -> dict[str, Spread]:
    """Of the newest checkpoint that was measured."""
    found: dict[str, list[float]] = {}
    for digest in own:
        for figure, cited in digest.evaluations[-1].figures.items() if digest.evaluations else ():
            found.setdefault(figure, []).append(_known(cited.value))
    return {figure: Spread(tuple(values)) for figure, values in found.items()}
