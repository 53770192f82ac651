"""A recorded curve through the controller: where would each rule have ended the stage?"""

import dataclasses
import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from raystage.config import Config, ConfigError
from raystage.config.pacing import Pacing
from raystage.config.pacing_checks import check_pacing
from raystage.config.schema import Model, Training
from raystage.pacing.controller import observe
from raystage.pacing.point import Check, Point
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Change, Plan, Shape
from raystage.pacing.state import State
from raystage.runtime.curve_file import RecordedCurve
from raystage.training.policy import plan_of, policy_of

Array = NDArray[np.float64]
_FED_POINTS = 1000  # at a time: nothing behind a trigger is looked at
_ONE = Shape(1, 1, 1, 1)  # what a stage looks like does not matter to a slope
_NOTHING_TAKEN = (0,)  # of the one track of such a plan
_CHANGES = {
    "length": Change(seq_len_tokens=2),
    "depth": Change(n_layer=2),
    "width": Change(d_model=2),
    "both": Change(n_layer=2, d_model=2),
    "batch": Change(batch_tokens=2),
}


@dataclasses.dataclass(frozen=True)
class ReplayRow:
    """What one rule does in one stage of the curve, None where it never fires.

    `threshold`: a slope, or for a fixed rule the share of the duration; `step`: of the check that fires, for a fixed rule the first
    step of the new stage; `slope`, `slope_se`, `slope_bound`: at that check, or else at the last one; `reason`: why, or why not.
    """

    rule: str
    stage: int
    threshold: float
    step: int | None
    tokens: float | None
    compute: float | None
    slope: float | None
    slope_se: float | None
    slope_bound: float | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Axes:
    """A curve's x, (n,): tokens seen, compute = 6 x parameters x tokens (None: parameters unknown) and seconds (None: not recorded).

    `tokens_per_parameter`: how far along the model is (None: parameters unknown, or not recorded).
    """

    tokens: Array
    compute: Array | None
    seconds: Array | None
    tokens_per_parameter: Array | None


def axes_of(curve: RecordedCurve, parameters: float | None, batch_tokens: float | None) -> Axes:
    """The curve's x, from its own columns where it has them. Raises ConfigError where there are no tokens."""
    tokens = curve.tokens
    if tokens is None:
        if batch_tokens is None:
            raise ConfigError(f"{curve.path}: has no column tokens; give --batch-tokens, the tokens of one step")
        tokens = np.asarray(curve.step * float(batch_tokens), np.float64)
    if parameters is None:
        return Axes(tokens, curve.compute, curve.seconds, curve.tokens_per_parameter)
    return Axes(tokens, np.asarray(6.0 * parameters * tokens, np.float64), curve.seconds, tokens / parameters)


def replay(curve: RecordedCurve, axes: Axes, pacing: Pacing) -> list[ReplayRow]:
    """For every stage of the curve where each slope rule first fires, then where the fixed rule, if there is one, changes.

    Raises ConfigError for a pacing that is impossible, or whose axis the curve does not have.
    """
    if pacing.axis == "seconds" and axes.seconds is None:
        raise ConfigError(f"pacing.axis=seconds: {curve.path} has no column seconds; take compute or tokens")
    if pacing.axis == "seconds" and axes.seconds is not None and axes.seconds[0] <= 0:
        raise ConfigError(f"pacing.axis=seconds: {curve.path} begins at {axes.seconds[0]:g} seconds, which has no logarithm; drop that row")
    config = _config_around(pacing, float(axes.tokens[-1] / curve.step[-1]))
    policy = policy_of(config)
    rules = {rule: threshold for rule, threshold in policy.thresholds.items() if threshold is not None}
    rows: list[ReplayRow] = []
    for span in stage_spans(curve):
        points = list(_points(curve, axes, span))
        rows += [_slope_row(curve, axes, span, points, rule, threshold, policy) for rule, threshold in rules.items()]
    return rows + [_fixed_row(curve, axes, pacing.rule, change) for change in plan_of(config).changes if change.at is not None]


def stage_spans(curve: RecordedCurve) -> list[slice]:
    """The rows of each stage, or of each part of it where a rollback goes back: their losses are not comparable."""
    borders = [0, *(np.flatnonzero(np.diff(curve.stage) | np.diff(curve.n_rollbacks)) + 1), len(curve.step)]
    return [slice(int(low), int(high)) for low, high in pairwise(borders)]


def _config_around(pacing: Pacing, batch_tokens: float) -> Config:
    """A configuration whose target is the end of the pacing lists. Raises ConfigError for lists or rules that do not fit together."""
    model = Model(
        context_length=(pacing.lengths or (256,))[-1], n_layer=(pacing.depths or (1,))[-1], d_model=(pacing.widths or (1,))[-1], n_head=1
    )
    batch = (pacing.batches or (max(1, round(batch_tokens)),))[-1]
    config = Config(pacing=pacing, model=model, training=Training(batch_tokens=batch))
    check_pacing(config)
    return config


def _slope_row(
    curve: RecordedCurve, axes: Axes, span: slice, points: list[Point], rule: str, threshold: float, policy: Policy
) -> ReplayRow:
    steps = curve.step[span]
    every = _rows_a_check(steps, policy.check_every_steps)
    policy = dataclasses.replace(policy, plan=_one_change(rule), last_calls=(), check_every_steps=every)
    check = _first_firing(policy, points, _start_tokens(axes, span))
    if check is None:
        return ReplayRow(rule, int(curve.stage[span][0]), threshold, None, None, None, None, None, None, "too few steps for a check")
    at = span.start + check.step - 1
    return ReplayRow(
        rule=rule,
        stage=int(curve.stage[at]),
        threshold=threshold,
        step=int(curve.step[at]) if check.fired else None,
        tokens=float(axes.tokens[at]) if check.fired else None,
        compute=float(axes.compute[at]) if check.fired and axes.compute is not None else None,
        slope=check.slope,
        slope_se=check.slope_se,
        slope_bound=check.slope_bound,
        reason=check.reason,
    )


def _one_change(rule: str) -> Plan:
    """A plan with nothing but a change of this kind; to stop is what comes when there is none."""
    return Plan(_ONE, ((_CHANGES[rule],) if rule in _CHANGES else (),))


def _rows_a_check(steps: NDArray[np.int64], check_every_steps: int) -> int:
    """How many rows lie between two checks: a curve may hold every 50th step alone."""
    stride = float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0
    return max(1, round(check_every_steps / stride))


def _start_tokens(axes: Axes, span: slice) -> float:
    return float(axes.tokens[span.start - 1]) if span.start else 0.0


def _points(curve: RecordedCurve, axes: Axes, span: slice) -> Iterator[Point]:
    """The rows as points, numbered from 1 without gaps."""
    compute = axes.tokens if axes.compute is None else axes.compute
    for number, row in enumerate(range(span.start, span.stop), 1):
        yield Point(
            step=number,
            loss=float(curve.loss[row]),
            tokens_seen=float(axes.tokens[row]),
            # the slope does not depend on the number of parameters
            compute=float(compute[row]),
            seconds=0.0 if axes.seconds is None else float(axes.seconds[row]),
            lr=1.0 if curve.lr is None else float(curve.lr[row]),
            progress=float(curve.step[row] / curve.step[-1]),
            taken=_NOTHING_TAKEN,
            tokens_per_parameter=None if axes.tokens_per_parameter is None else float(axes.tokens_per_parameter[row]),
        )


def _first_firing(policy: Policy, points: list[Point], start_tokens: float) -> Check | None:
    """The check that fires, or else the last one; None without any."""
    state, last = State.at(policy.plan.untouched, 0, start_tokens), None
    for start in range(0, len(points), _FED_POINTS):
        state, checks = observe(policy, state, points[start : start + _FED_POINTS])
        fired = next((check for check in checks if check.fired), None)
        if fired is not None:
            return fired
        last = checks[-1] if checks else last
    return last


def _fixed_row(curve: RecordedCurve, axes: Axes, rule: str, change: Change) -> ReplayRow:
    """Where a share of the duration lies, if the run ends where the curve does."""
    assert change.at is not None
    behind = math.ceil(change.at * int(curve.step[-1]) - 1e-6)  # steps of the stage before; the tolerance is of rounding
    tokens = float(np.interp(behind, [0, *curve.step], [0.0, *axes.tokens]))
    compute = None if axes.compute is None else float(np.interp(behind, [0, *curve.step], [0.0, *axes.compute]))
    reason = f"{change.at:.4g} of the duration"
    return ReplayRow(f"{rule}: {change}", 0, change.at, behind + 1, tokens, compute, None, None, None, reason)
