"""What runs that grew say of growth itself: do they learn as fast as from scratch afterwards, and where should they have grown? Pure."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from raystage.config import Config, from_tree, to_tree
from raystage.config.study import Arm, Study
from raystage.pacing.fit import FitError, LossCurve, fit_growth
from raystage.report.stages import Stage
from raystage.studies.dynamics import Comparison, compare
from raystage.studies.equal_loss import Curve
from raystage.studies.measured import Measured
from raystage.studies.results import Runs, paired
from raystage.studies.runs import Losses
from raystage.studies.spread import Spread, spread_of

_N_RESAMPLES = 20  # the spread over seeds is what is told; a growth point must only stand the noise
_MIN_VALIDATIONS = 4
_FLOPS_PER_PARAMETER = 6.0  # and token: C = 6 N D, in which the fit counts


@dataclasses.dataclass(frozen=True)
class Overlay:
    """A grown run's validations on the clock of the baseline of its seed. `x`: the tokens at which that has the same loss."""

    curve: Curve
    compared: Comparison


@dataclasses.dataclass(frozen=True)
class Growing:
    """Of an arm's `n_seeds` runs. `ratio`: slope of a grown curve over the baseline's at the same loss.

    `rho`, `threshold`, `share`: the growth point by the curves of the small model, until it grew, and of the baseline: the share of the
    tokens that counts afterwards, the small one's slope there, its place among the tokens that the small one has seen. A growth point
    beyond these is none. Spreads are over the seeds that tell; `troubles`: why the others do not.
    """

    arm: str
    n_seeds: int
    ratio: Spread | None
    rho: Spread | None = None
    threshold: Spread | None = None
    share: Spread | None = None
    troubles: tuple[str, ...] = ()


def overlays_of(study: Study, losses: Losses, runs: Runs) -> dict[str, list[Overlay]]:
    """By arm: the runs that grew, where the baseline of their seed has had their loss. Of studies at a constant rate."""
    return {
        arm: [found for run, base in pairs if (found := _overlay(run, base, study.arm(arm), study.base)) is not None]
        for arm, pairs in _grown(study, losses, runs).items()
    }


def growing_of(study: Study, losses: Losses, runs: Runs, overlays: Mapping[str, Sequence[Overlay]]) -> list[Growing]:
    """A row for each arm that grew."""
    return [_row(arm, pairs, overlays[arm]) for arm, pairs in _grown(study, losses, runs).items()]


def _grown(study: Study, losses: Losses, runs: Runs) -> dict[str, list[tuple[Measured, Measured]]]:
    """By arm: the runs that ended larger than they began, each with the baseline of its seed. None under a rate that decays."""
    if study.keys.reference != "curve":
        return {}
    pairs = {
        arm.name: [pair for pair in paired(study, arm.name, study.keys.baseline, losses, runs) if _has_grown(pair[0])] for arm in study.arms
    }
    return {arm: found for arm, found in pairs.items() if found}


def _size(stage: Stage) -> tuple[int, int]:
    return stage.record["n_layer"], stage.record["d_model"]


def _has_grown(run: Measured) -> bool:
    return _size(run.digest.stages[0]) != _size(run.digest.stages[-1])


def _overlay(run: Measured, base: Measured, arm: Arm, settings: Config) -> Overlay | None:
    """The window: from the end of the last growth's re-warmup to the end, at most a quarter of the baseline's tokens."""
    settings = from_tree(to_tree(settings), arm.overrides)
    smaller = [stage for stage in run.digest.stages if _size(stage) != _size(run.digest.stages[-1])]
    grew = smaller[-1].end["tokens_seen"]
    begin = grew + settings.growth.rewarm_steps * settings.training.batch_tokens
    grown, target = curve_of_tokens(run), curve_of_tokens(base)
    window = min(float(grown.x[-1]) - begin, float(target.x[-1]) / 4)
    inside = (grown.x >= begin) & (grown.x <= begin + window)
    compared = compare(grown, target, begin, window) if inside.sum() >= _MIN_VALIDATIONS else None
    if compared is None:
        return None
    after = grown.x >= grew
    return Overlay(Curve(grown.x[after] + compared.shift_tokens, grown.losses[after]), compared)


def curve_of_tokens(run: Measured) -> Curve:
    """A run's validations over the tokens seen."""
    val = run.digest.val.known("val_loss")
    return Curve(val["tokens_seen"], val["val_loss"])


def _row(arm: str, pairs: Sequence[tuple[Measured, Measured]], overlays: Sequence[Overlay]) -> Growing:
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
    ratio = spread_of(overlay.compared.ratio for overlay in overlays)
    rho, threshold, share = (spread_of(column) for column in zip(*points, strict=True)) if points else (None, None, None)
    return Growing(arm, len(pairs), ratio, rho, threshold, share, tuple(dict.fromkeys(troubles)))


def _small_curve(run: Measured) -> LossCurve:
    """Training losses until the first growth. Raises FitError where more than the size has changed by then."""
    stages = list(itertools.takewhile(lambda stage: _size(stage) == _size(run.digest.stages[0]), run.digest.stages))
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
