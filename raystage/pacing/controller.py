"""The controller: a pure function from the losses seen so far to the decision, if any, of the latest check."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

from raystage.pacing import curve
from raystage.pacing.curve import Bin
from raystage.pacing.policy import Policy
from raystage.pacing.slope import MIN_POINTS, SlopeEstimate, estimate_slope
from raystage.pacing.stage import Change

Trigger = Literal["slope", "max_dwell", "schedule"]
MAX_LOSS_RATIO = 1.2  # above it the loss is diverging, not saturating (SLW, 2108.06084)
MAX_RELATIVE_ERROR = 1 / 3  # standard error over threshold above which a slope is not known well enough
_MAX_HELD_POINTS = 10_000


@dataclasses.dataclass(frozen=True)
class Point:
    """One training step as the controller sees it. Points are numbered by `step` from 1 without gaps.

    `loss`: mean over the target tokens of all ranks; `tokens_seen`: up to and with this step;
    `compute`: 6 x parameters x effective tokens (the slope's axis); `progress`: share of the
    duration done; `position`: how many changes of the plan lie behind, refused ones included.
    """

    step: int
    loss: float
    tokens_seen: float
    compute: float
    lr: float
    progress: float
    position: int


@dataclasses.dataclass(frozen=True)
class Decision:
    """From `effective_step` on, the stage is changed by `change`; made once."""

    decision_id: int
    change: Change
    check_step: int
    effective_step: int
    trigger: Trigger
    slope: float | None
    threshold: float | None


@dataclasses.dataclass(frozen=True)
class Check:
    """What one check saw and said; `reason` is why it did not fire, or the trigger."""

    step: int
    tokens_seen: float
    stage: int
    change: str | None
    slope: float | None
    slope_se: float | None
    slope_bound: float | None
    threshold: float | None
    in_a_row: int
    fired: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class State:
    """All that the controller remembers; bounded in size, and plain JSON through `to_json`."""

    watermark: int = 0
    position: int = 0
    tokens_seen: float = 0.0
    stage_start_tokens: float = 0.0
    bins: tuple[Bin, ...] = ()
    open_bin: Bin | None = None
    best_loss: float = math.inf
    in_a_row: int = 0
    next_decision_id: int = 1
    pending: Decision | None = None
    held: tuple[Point, ...] = ()

    def to_json(self) -> dict[str, Any]:
        tree = dataclasses.asdict(self)
        # JSON has no infinity
        return {**tree, "best_loss": None if math.isinf(self.best_loss) else self.best_loss}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "State":
        pending, open_bin = tree["pending"], tree["open_bin"]
        return State(
            **{
                **tree,
                "best_loss": math.inf if tree["best_loss"] is None else tree["best_loss"],
                "bins": tuple(Bin(**b) for b in tree["bins"]),
                "open_bin": Bin(**open_bin) if open_bin else None,
                "pending": decision_from_json(pending) if pending else None,
                "held": tuple(Point(**p) for p in tree["held"]),
            }
        )


def decision_from_json(tree: dict[str, Any]) -> Decision:
    """The inverse of dataclasses.asdict."""
    return Decision(**{**tree, "change": Change(**tree["change"])})


def observe(policy: Policy, state: State, points: Iterable[Point]) -> tuple[State, list[Check]]:
    """The state after `points`, and the checks that came due on the way; `state.pending` is the decision, if one stands.

    Points may come late, twice or out of order: those at or below the watermark are passed over, those
    beyond the next number are held until the gap closes. So the decisions depend on the losses alone.
    """
    waiting = {point.step: point for point in (*state.held, *points) if point.step > state.watermark}
    checks: list[Check] = []
    while (point := waiting.pop(state.watermark + 1, None)) is not None:
        state, check = _advance(policy, state, point)
        if check:
            checks.append(check)
    held = tuple(waiting[step] for step in sorted(waiting)[:_MAX_HELD_POINTS])
    return dataclasses.replace(state, held=held), checks


def _advance(policy: Policy, state: State, point: Point) -> tuple[State, Check | None]:
    if point.position != state.position:
        state = _new_stage(state, point.position)
    new = Bin(1, point.tokens_seen, math.log10(point.compute), point.loss, point.lr, point.lr)
    state = dataclasses.replace(
        state,
        watermark=point.step,
        tokens_seen=point.tokens_seen,
        open_bin=curve.merge(state.open_bin, new) if state.open_bin else new,
    )
    if point.step % policy.check_every_steps:
        return state, None
    return _check(policy, _close_bin(policy, state), point.progress)


def _new_stage(state: State, position: int) -> State:
    """Curves of two stages are not comparable: the fit starts anew, and so does the dwell."""
    return State(
        watermark=state.watermark,
        position=position,
        tokens_seen=state.tokens_seen,
        stage_start_tokens=state.tokens_seen,
        next_decision_id=state.next_decision_id,
    )


def _close_bin(policy: Policy, state: State) -> State:
    bin_ = state.open_bin
    assert bin_ is not None
    settled = bin_.tokens_seen - state.stage_start_tokens > policy.settle_tokens
    return dataclasses.replace(
        state,
        open_bin=None,
        bins=curve.append(state.bins, bin_) if settled else state.bins,
        best_loss=min(state.best_loss, bin_.loss) if settled else state.best_loss,
    )


def _check(policy: Policy, state: State, progress: float) -> tuple[State, Check]:
    estimate = estimate_slope(*curve.log_axes(curve.steady_tail(_window(policy, state))))
    changes = policy.plan.changes
    change = changes[state.position] if state.position < len(changes) else None
    threshold = policy.thresholds[change.kind] if change and policy.rule == "slope" else None
    trigger, reason = _verdict(policy, state, progress, change, estimate, threshold)
    in_a_row = state.in_a_row + 1 if reason in ("above threshold", "slope") else 0
    decision = None
    if trigger and change:
        decision = Decision(
            decision_id=state.next_decision_id,
            change=change,
            check_step=state.watermark,
            effective_step=state.watermark + policy.lag_steps,
            trigger=trigger,
            slope=estimate.slope if estimate else None,
            threshold=threshold,
        )
    check = Check(
        step=state.watermark,
        tokens_seen=state.tokens_seen,
        stage=state.position,
        change=change.kind if change else None,
        slope=estimate.slope if estimate else None,
        slope_se=estimate.standard_error if estimate else None,
        slope_bound=estimate.lower_bound(policy.confidence) if estimate else None,
        threshold=threshold,
        in_a_row=in_a_row,
        fired=decision is not None,
        reason=reason,
    )
    state = dataclasses.replace(
        state,
        in_a_row=in_a_row,
        pending=decision or state.pending,
        next_decision_id=state.next_decision_id + (decision is not None),
    )
    return state, check


def _window(policy: Policy, state: State) -> tuple[Bin, ...]:
    """The latest share of the settled stage."""
    if not state.bins:
        return ()
    start = state.stage_start_tokens + policy.settle_tokens
    cut = state.tokens_seen - policy.window_fraction * (state.tokens_seen - start)
    return tuple(b for b in state.bins if b.tokens_seen >= cut)


def _verdict(
    policy: Policy, state: State, progress: float, change: Change | None, estimate: SlopeEstimate | None, threshold: float | None
) -> tuple[Trigger | None, str]:
    """The trigger of this check, or None with the reason why not."""
    dwell_tokens = state.tokens_seen - state.stage_start_tokens
    if change is None:
        return None, "plan complete"
    if state.pending:
        return None, "decided"
    if policy.rule == "table":
        return ("schedule", "schedule") if progress >= policy.at[state.position] else (None, "before its time")
    if policy.max_dwell_tokens is not None and dwell_tokens >= policy.max_dwell_tokens:
        return "max_dwell", "max dwell"
    if estimate is None or threshold is None:
        return None, "settling" if len(_window(policy, state)) < MIN_POINTS else "lr moves"
    if dwell_tokens <= policy.min_dwell_tokens:
        return None, "min dwell"
    if state.bins[-1].loss > MAX_LOSS_RATIO * state.best_loss:
        return None, "loss ratio"
    if estimate.standard_error > MAX_RELATIVE_ERROR * abs(threshold):
        return None, "too noisy"
    if estimate.lower_bound(policy.confidence) <= threshold:
        return None, "below threshold"
    if state.in_a_row + 1 < policy.checks_in_a_row:
        return None, "above threshold"
    return "slope", "slope"
