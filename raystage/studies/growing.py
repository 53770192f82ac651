"""What runs that grew say of growth itself: do they learn as fast as from scratch afterwards, and where should they have grown? Pure."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from raystage.config.study import Study
from raystage.pacing.fit import FitError, LossCurve, fit_growth
from raystage.report.stages import Stage
from raystage.studies.dynamics import Comparison, compare
from raystage.studies.equal_loss import Curve
from raystage.studies.measured import Measured
from raystage.studies.results import Runs, baseline_by_seed
from raystage.studies.runs import Losses, counted_runs
from raystage.studies.spread import Spread

_N_RESAMPLES = 20  # the spread over seeds is what is told; a growth point must only stand the noise
_FLOPS_PER_PARAMETER = 6.0  # and token: C = 6 N D, in which the fit counts


@dataclasses.dataclass(frozen=True)
class Overlay:
    """A grown run's validations on the clock of the baseline of its seed. `x`: the tokens at which that has the same loss."""

    curve: Curve
    compared: Comparison


@dataclasses.dataclass(frozen=True)
class Growing:
    """Of an arm, over its seeds. `ratio`: slope of a grown curve over the baseline's at the same loss.

    `rho`, `threshold`, `share`: the growth point by the curves of the small model, until it grew, and of the baseline: the share of the
    tokens that counts afterwards, the small one's slope there, its place among the tokens that the small one has seen. `troubles`: of
    seeds that tell none.
    """

    arm: str
    ratio: Spread | None
    rho: Spread | None = None
    threshold: Spread | None = None
    share: Spread | None = None
    troubles: tuple[str, ...] = ()


def overlays_of(study: Study, losses: Losses, runs: Runs) -> dict[str, list[Overlay]]:
    """By arm: the runs that grew, as far as the baseline of their seed has had their loss. Of studies at a constant rate."""
    return {
        arm: [found for run, base in pairs if (found := _overlay(run, base, study)) is not None]
        for arm, pairs in _grown(study, losses, runs).items()
    }


def growing_of(study: Study, losses: Losses, runs: Runs, overlays: Mapping[str, Sequence[Overlay]]) -> list[Growing]:
    """A row for each arm that grew."""
    return [_row(arm, pairs, overlays[arm]) for arm, pairs in _grown(study, losses, runs).items()]


def _grown(study: Study, losses: Losses, runs: Runs) -> dict[str, list[tuple[Measured, Measured]]]:
    """By arm: the runs that ended larger than they began, each with the baseline of its seed. None under a rate that decays."""
    if study.keys.reference != "curve":
        return {}
    base = baseline_by_seed(study, losses, runs)
    pairs = {
        arm.name: [
            (runs[run], base[run.seed])
            for run in counted_runs(study, arm.name, losses)
            if losses[run] is not None and run.seed in base and _has_grown(runs[run])
        ]
        for arm in study.arms
    }
    return {arm: found for arm, found in pairs.items() if found}


def _size(stage: Stage) -> tuple[int, int]:
    return stage.record["n_layer"], stage.record["d_model"]


def _has_grown(run: Measured) -> bool:
    return _size(run.digest.stages[0]) != _size(run.digest.stages[-1])


def _overlay(run: Measured, base: Measured, study: Study) -> Overlay | None:
    """The window: from the end of the last growth's re-warmup to the end, at most a quarter of the base's tokens."""
    last = next(stage for stage in run.digest.stages if _size(stage) == _size(run.digest.stages[-1]))
    begin = last.begin["tokens_seen"] + study.base.growth.rewarm_steps * study.base.training.batch_tokens
    grown, target = curve_of_tokens(run), curve_of_tokens(base)
    window = min(float(grown.x[-1]) - begin, float(target.x[-1]) / 4)
    inside = (grown.x >= begin) & (grown.x <= begin + window)
    compared = compare(grown, target, begin, window) if inside.sum() >= 4 else None
    if compared is None:
        return None
    after = grown.x >= last.begin["tokens_seen"]
    return Overlay(Curve(grown.x[after] + compared.shift_tokens, grown.losses[after]), compared)


def curve_of_tokens(run: Measured) -> Curve:
    """A run's validations over the tokens seen."""
    val = run.digest.val.known("val_loss")
    return Curve(val["tokens_seen"], val["val_loss"])


def _row(arm: str, pairs: Sequence[tuple[Measured, Measured]], overlays: Sequence[Overlay]) -> Growing:
    ratio = Spread(tuple(overlay.compared.ratio for overlay in overlays)) if overlays else None
    points, troubles = [], list[str]()
    for run, base in pairs:
        small = _first_size(run)
        try:
            fit = fit_growth(small, _first_size(base), _N_RESAMPLES)
        except FitError as error:
            troubles.append(str(error))
        else:
            points.append((fit.rho.value, fit.threshold.value, fit.small_tokens.value / float(small.tokens[-1])))
    row = Growing(arm, ratio, troubles=tuple(dict.fromkeys(troubles)))
    if not points:
        return row
    rho, threshold, share = (Spread(tuple(column)) for column in zip(*points, strict=True))
    return dataclasses.replace(row, rho=rho, threshold=threshold, share=share)


def _first_size(run: Measured) -> LossCurve:
    """Training losses of the model that the run began with, until it grew."""
    stages = [stage for stage in run.digest.stages if _size(stage) == _size(run.digest.stages[0])]
    span = slice(stages[0].first, stages[-1].last + 1)
    tokens, flops, loss = (run.train[key][span] for key in ("tokens_seen", "flops", "loss"))
    known = np.isfinite(loss)
    return LossCurve(tokens[known], loss[known], float(flops[-1] / tokens[-1] / _FLOPS_PER_PARAMETER))
