"""What the runs of a study say: each arm's figures over its seeds, and against the baseline of the same seed. Pure."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from raystage.config.study import Study
from raystage.studies.changes import changes_of
from raystage.studies.equal_loss import OTHER_WAY, Bound, Curve, compute_between, compute_for, loss_at, slope_at
from raystage.studies.measured import Measured, known, reached
from raystage.studies.runs import Losses, StudyRun, budget_of, chosen_factor, counted_runs, is_at_edge, trials_of
from raystage.studies.settled import settings_of, settled_curve
from raystage.studies.spread import Spread, spread_of

Runs = Mapping[StudyRun, Measured]
_OF_THE_END = ("perplexity",)  # what a run that diverged before has none of


@dataclasses.dataclass(frozen=True)
class Saved:
    """1 - an arm's FLOPs over those that the baseline of the same seed takes for the same loss: the arm's last, or with `level` that which
    the baseline has at this share of its run.

    `n_beyond`: seeds beyond what the reference knows, of which each counts with its `bound`. So does the mean then, and has no interval:
    what was cut off does not spread.
    """

    spread: Spread
    bound: Bound = ""
    level: float | None = None
    n_beyond: int = 0


@dataclasses.dataclass(frozen=True)
class Against:
    """An arm beside another one than the baseline, seed by seed: `difference` of the final losses, less the other's; `saved`: its saving
    at equal loss less the other's, where both are known of every seed."""

    name: str
    difference: Spread
    saved: Spread | None


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """`n_ended` of `n_wanted` runs at its rate have ended, `n_diverged` of them badly: `extra` counts these too (not for perplexity), the
    rest does not.

    `share`, `time_share`: of the FLOPs and the seconds of the baseline of the same seed; `reached`, `reached_time`: the same at
    the first validation at or below the baseline's final loss, where all seeds come to it. `difference`: of the final validation loss,
    less the baseline's.
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
    share: Spread | None = None
    time_share: Spread | None = None
    reached: Spread | None = None
    reached_time: Spread | None = None
    difference: Spread | None = None
    saved: tuple[Saved, ...] = ()
    against: tuple[Against, ...] = ()
    extra: Mapping[str, Spread] = dataclasses.field(default_factory=dict)
    zeroshot: Mapping[str, Spread] = dataclasses.field(default_factory=dict)
    changes: str = ""


def results_of(study: Study, losses: Losses, measured: Runs) -> list[ArmResult]:
    """One an arm, in the study's order."""
    return [_result(study, arm.name, losses, measured) for arm in study.arms]


def _result(study: Study, name: str, losses: Losses, measured: Runs) -> ArmResult:
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
        extra=_extra(study, measured, ended, good),
    )
    if not good:
        return head
    own = [measured[run] for run in good]
    pairs = paired(study, name, study.keys.baseline, losses, measured)
    there = [] if study.keys.reference == "curve" else [(at, other) for one, other in pairs if (at := reached(one, other.final_loss))]
    everywhere = len(there) == len(ended)
    return dataclasses.replace(
        head,
        loss=_over(own, lambda run: run.final_loss),
        tokens=_over(own, lambda run: run.tokens),
        flops=_over(own, lambda run: run.flops),
        share=spread_of([one.flops / other.flops for one, other in pairs]),
        time_share=spread_of([float(one.seconds[-1] / other.seconds[-1]) for one, other in pairs if one.device == other.device]),
        reached=spread_of([at.flops / other.flops for at, other in there]) if everywhere else None,
        reached_time=spread_of([float(at.seconds / other.seconds[-1]) for at, other in there]) if everywhere else None,
        difference=spread_of([one.final_loss - other.final_loss for one, other in pairs]),
        # of the seeds that are left when one diverged it would be too good
        saved=() if head.n_diverged else _saved(study, name, losses, measured),
        against=tuple(each for other in arm.keys.against if (each := _against(study, name, other, losses, measured))),
        zeroshot=_zeroshot(own),
        changes=changes_of([run.digest.decisions for run in own], [(run.digest.base["tokens_seen"], run.tokens) for run in own]),
    )


def paired(study: Study, arm: str, other: str, losses: Losses, measured: Runs) -> list[tuple[Measured, Measured]]:
    """The runs of an arm that have ended well, each with the other arm's of its seed, where that has."""
    own, theirs = (by_seed(study, name, losses, measured) for name in (arm, other))
    return [(run, theirs[seed]) for seed, run in own.items() if seed in theirs]


def _over(runs: Sequence[Measured], value: Callable[[Measured], float]) -> Spread:
    return Spread(tuple(value(run) for run in runs))


def _extra(study: Study, measured: Runs, ended: Sequence[StudyRun], good: Sequence[StudyRun]) -> dict[str, Spread]:
    counted = {key: good if key in _OF_THE_END else ended for key in study.keys.columns}
    values = {key: spread_of(getattr(measured[run].digest.facts, key).value for run in runs) for key, runs in counted.items()}
    return {key: spread for key, spread in values.items() if spread}


def by_seed(study: Study, arm: str, losses: Losses, measured: Runs) -> dict[int, Measured]:
    """The runs of an arm that have ended well."""
    return {run.seed: measured[run] for run in counted_runs(study, arm, losses) if losses[run] is not None}


def _savings(study: Study, arm: str, losses: Losses, measured: Runs) -> dict[int, tuple[float, Bound]]:
    """By seed, of those that every arm of the reference has; the reference of a seed is of its runs alone."""
    reference = [by_seed(study, name, losses, measured) for name in study.ends]
    found = {}
    for seed, run in by_seed(study, arm, losses, measured).items() if reference else ():
        if all(seed in each for each in reference):
            needed, bound = compute_between([(each[seed].flops, each[seed].final_loss) for each in reference], run.final_loss)
            found[seed] = (1 - run.flops / needed, bound)
    return found


def _saved(study: Study, arm: str, losses: Losses, measured: Runs) -> tuple[Saved, ...]:
    by_level: Mapping[float | None, Sequence[tuple[float, Bound]]]
    if study.ends:
        by_level = {None: list(_savings(study, arm, losses, measured).values())}
    else:
        by_level = _savings_by_curve(study, arm, paired(study, arm, study.keys.baseline, losses, measured))
    return tuple(saved for level, savings in by_level.items() if (saved := _over_seeds(savings, level)))


def _over_seeds(savings: Sequence[tuple[float, Bound]], level: float | None) -> Saved | None:
    bounds = [bound for _, bound in savings if bound]
    if not savings or len(set(bounds)) > 1:
        return None
    return Saved(Spread(tuple(share for share, _ in savings)), bounds[0] if bounds else "", level, len(bounds))


def _against(study: Study, arm: str, other: str, losses: Losses, measured: Runs) -> Against | None:
    difference = spread_of([one.final_loss - another.final_loss for one, another in paired(study, arm, other, losses, measured)])
    mine, others = (_savings(study, name, losses, measured) for name in (arm, other))
    saved = [share - others[seed][0] for seed, (share, bound) in mine.items() if seed in others and not bound and not others[seed][1]]
    if difference is None:
        return None
    # without the seeds of which only a bound is known it would be of those that happened to stay within the reference
    return Against(other, difference, spread_of(saved) if len(saved) == len(difference.values) else None)


def _savings_by_curve(study: Study, arm: str, paired: Sequence[tuple[Measured, Measured]]) -> dict[float | None, list[tuple[float, Bound]]]:
    """By level, where all seeds have one; of an arm of another budget than the baseline's also where it ends itself."""
    if study.keys.reference is None:
        return {}
    settings = settings_of(study, arm)
    curves = [(settled_curve(one, settings), settled_curve(other, study.base)) for one, other in paired]
    is_as_large = budget_of(study.arm(arm))[0] == budget_of(study.arm(study.keys.baseline))[0]  # whatever it is counted in
    own_end = [] if is_as_large else [None]
    levels = [*own_end, *study.keys.levels]
    found = {level: [saved for own, base in curves if (saved := _saved_at(own, base, level)) is not None] for level in levels}
    return {level: savings for level, savings in found.items() if len(savings) == len(paired)}


def _saved_at(own: Curve, base: Curve, level: float | None) -> tuple[float, Bound] | None:
    """A grown model that is better already when it has settled saves that much at least; one that never comes there saves at most what
    its whole run does."""
    if level is None:
        last = loss_at(own, float(own.x[-1])) if len(own.x) else None
        if last is None:
            return None
        needed, beyond = compute_for(base, last)
        return 1 - float(own.x[-1]) / needed, beyond
    flops = level * float(base.x[-1])
    loss = loss_at(base, flops)
    if loss is None or not len(own.x):
        return None
    spent, bound = compute_for(own, loss)
    return 1 - spent / flops, OTHER_WAY[bound]


def slopes_at_levels(study: Study, losses: Losses, measured: Runs) -> dict[float, Spread]:
    """By level, the baseline's d log(loss) / d log(FLOPs) there: how far it is from a plateau. Of studies that read its curve."""
    curves = [settled_curve(run, study.base) for run in by_seed(study, study.keys.baseline, losses, measured).values()]
    levels = study.keys.levels if study.keys.reference == "curve" else ()
    found = {level: spread_of(slope_at(curve, level * float(curve.x[-1])) for curve in curves) for level in levels}
    return {level: spread for level, spread in found.items() if spread}


def _zeroshot(own: Sequence[Measured]) -> dict[str, Spread]:
    """Of the newest checkpoint that was measured."""
    found: dict[str, list[float]] = {}
    for run in own:
        for figure, cited in run.digest.evaluations[-1].figures.items() if run.digest.evaluations else ():
            found.setdefault(figure, []).append(known(cited.value))
    return {figure: Spread(tuple(values)) for figure, values in found.items()}
