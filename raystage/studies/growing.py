"""What runs that grew say of growth itself: do they learn as fast as from scratch afterwards, and where should they have grown? Pure."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from raystage.config import Config
from raystage.config.schema import GrowthMethod
from raystage.config.study import Study
from raystage.pacing.fit import FitError, LossCurve, fit_growth
from raystage.pacing.stage import Change, Shape
from raystage.report.stages import Stage
from raystage.studies.dynamics import Comparison, compare
from raystage.studies.equal_loss import Curve
from raystage.studies.measured import Measured
from raystage.studies.results import Runs, by_seed, paired
from raystage.studies.runs import Losses
from raystage.studies.settled import grown_at, settings_of, settled_at, size_of
from raystage.studies.spread import Spread, spread_of
from raystage.training.counters import Counters

_N_RESAMPLES = 20  # the spread over seeds is what is told; a growth point must only stand the noise
_MIN_VALIDATIONS = 4
_FLOPS_PER_PARAMETER = 6.0  # and token: C = 6 N D, in which the fit counts


@dataclasses.dataclass(frozen=True)
class Overlay:
    """A grown run's validations on the clock of the baseline of its seed. `x`: the tokens at which that has the same loss.

    `rho`: the share of the tokens seen at the growth that it counted as by the middle of the window; None where there were several.
    """

    curve: Curve
    compared: Comparison
    rho: float | None


@dataclasses.dataclass(frozen=True)
class Growing:
    """Of an arm's `n_seeds` runs. `ratio`: slope of a grown curve over the baseline's at the same loss. `measured`: rho, the share of the
    tokens seen that counts after the growth, by where the grown curve lies on the baseline's clock; `default`: as configured.

    `rho`, `threshold`, `share`: the growth point by the curves of the small model, until it grew, and of the baseline: the share of the
    tokens that counts afterwards, the small one's slope there, its place among the tokens that the small one has seen. A growth point
    beyond these is none. Spreads are over the seeds that tell; `troubles`: why the others do not.
    """

    arm: str
    n_seeds: int
    ratio: Spread | None
    measured: Spread | None = None
    default: float | None = None
    rho: Spread | None = None
    threshold: Spread | None = None
    share: Spread | None = None
    troubles: tuple[str, ...] = ()


def overlays_of(study: Study, losses: Losses, runs: Runs) -> dict[str, list[Overlay]]:
    """By arm: the runs that grew, where the baseline of their seed has had their loss. Of studies at a constant rate."""
    return {
        arm: [found for run, base in pairs if (found := _overlay(run, base, settings_of(study, arm))) is not None]
        for arm, pairs in _grown(study, losses, runs).items()
    }


def growing_of(study: Study, losses: Losses, runs: Runs, overlays: Mapping[str, Sequence[Overlay]]) -> list[Growing]:
    """A row for each arm that grew, below the one of the baseline: of each seed over the next, which differ by noise alone."""
    rows = [_row(arm, pairs, overlays[arm], settings_of(study, arm).growth) for arm, pairs in _grown(study, losses, runs).items()]
    if not rows:
        return []
    curves = [curve_of_tokens(run) for run in by_seed(study, study.keys.baseline, losses, runs).values()]
    compared = [_second_half(one, other) for one, other in itertools.permutations(curves, 2)]
    return [Growing(study.keys.baseline, len(curves), spread_of(each.ratio if each else None for each in compared)), *rows]


def _second_half(one: Curve, other: Curve) -> Comparison | None:
    """A quarter of the tokens from the middle on, as wide as the widest window of a grown run."""
    whole = float(one.x[-1])
    return compare(one, other, whole / 2, whole / 4)


def _grown(study: Study, losses: Losses, runs: Runs) -> dict[str, list[tuple[Measured, Measured]]]:
    """By arm: the runs that ended larger than they began, each with the baseline of its seed. None under a rate that decays."""
    if study.keys.reference != "curve":
        return {}
    pairs = {
        arm.name: [pair for pair in paired(study, arm.name, study.keys.baseline, losses, runs) if grown_at(pair[0]) is not None]
        for arm in study.arms
    }
    return {arm: found for arm, found in pairs.items() if found}


def _overlay(run: Measured, base: Measured, settings: Config) -> Overlay | None:
    """The window: from the end of the last growth's re-warmup to the end, at most a quarter of the baseline's tokens."""
    grew, begin = grown_at(run), settled_at(run, settings)
    assert grew is not None, "only runs that grew have one"
    assert begin is not None, "only runs that grew have one"
    grown, target = curve_of_tokens(run), curve_of_tokens(base)
    window = min(float(grown.x[-1]) - begin, float(target.x[-1]) / 4)
    inside = (grown.x >= begin) & (grown.x <= begin + window)
    compared = compare(grown, target, begin, window) if inside.sum() >= _MIN_VALIDATIONS else None
    if compared is None:
        return None
    after = grown.x >= grew
    rho = 1 + compared.shift_tokens / (grew - run.digest.base["tokens_seen"]) if len(_sizes(run)) == 2 else None
    return Overlay(Curve(grown.x[after] + compared.shift_tokens, grown.losses[after]), compared, rho)


def _sizes(run: Measured) -> list[tuple[int, int]]:
    """That it had, one after the other; a growth that was rolled back counts for nothing."""
    return list(dict.fromkeys(size_of(stage) for stage in run.digest.stages))


def curve_of_tokens(run: Measured) -> Curve:
    """A run's validations over the tokens seen."""
    val = run.digest.val.known("val_loss")
    return Curve(val["tokens_seen"], val["val_loss"])


def _row(arm: str, pairs: Sequence[tuple[Measured, Measured]], overlays: Sequence[Overlay], growth: GrowthMethod) -> Growing:
    points, troubles = [], list[str]()
    for run, base in pairs:
        try:
            small = _small_curve(run)
            fit = fit_growth(small, _curve_between(base, base.digest.stages), _N_RESAMPLES)
        except FitError as error:
            troubles.append(str(error))
        else:
            points.append((fit.rho.value, fit.threshold.value, fit.small_tokens.value / float(small.tokens[-1])))
    if len(overlays) < len(pairs):
        troubles.append(f"{len(pairs) - len(overlays)} grown curves have too little after their growth, or no loss that the baseline had")
    rho, threshold, share = (spread_of(column) for column in zip(*points, strict=True)) if points else (None, None, None)
    return Growing(
        arm,
        len(pairs),
        ratio=spread_of(overlay.compared.ratio for overlay in overlays),
        measured=spread_of(overlay.rho for overlay in overlays),
        default=_default_rho(pairs[0][0], growth),
        rho=rho,
        threshold=threshold,
        share=share,
        troubles=tuple(dict.fromkeys(troubles)),
    )


def _default_rho(run: Measured, growth: GrowthMethod) -> float | None:
    if len(_sizes(run)) != 2:
        return None
    (n_layer, d_model), (deeper, wider) = _sizes(run)
    before = Shape(0, n_layer, d_model, 0)
    change = Change(n_layer=deeper, d_model=wider)
    return Counters(effective_tokens=1.0).after_growth(change, before, growth, 0.0).effective_tokens


def _small_curve(run: Measured) -> LossCurve:
    """Training losses until the growth. Raises FitError where there are several, or more than the size has changed by then."""
    if len(_sizes(run)) > 2:
        raise FitError("it grew several times: its first model did not grow into the baseline's")
    stages = list(itertools.takewhile(lambda stage: size_of(stage) == size_of(run.digest.stages[0]), run.digest.stages))
    shapes = {(stage.record["seq_len_tokens"], stage.record["batch_tokens"]) for stage in stages}
    if len(shapes) > 1:
        raise FitError("the small model changed its sequence length or its batch before it grew: no one law of its loss")
    return _curve_between(run, stages)


def _curve_between(run: Measured, stages: Sequence[Stage]) -> LossCurve:
    span = slice(stages[0].first, stages[-1].last + 1)
    tokens, flops, loss = (run.train[key][span] for key in ("tokens_seen", "flops", "loss"))
    tokens, flops = tokens - run.digest.base["tokens_seen"], flops - run.digest.base["flops"]
    known = np.isfinite(loss)
    return LossCurve(tokens[known], loss[known], float(flops[-1] / tokens[-1] / _FLOPS_PER_PARAMETER))
