"""The controller: a pure function from the losses seen so far to the decision, if any, of the latest check."""

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter

from raystage.pacing import curve
from raystage.pacing.curve import Bin
from raystage.pacing.guard import Unstable, judge
from raystage.pacing.interval import Interval
from raystage.pacing.point import Check, Decision, Point, Trigger
from raystage.pacing.policy import Policy
from raystage.pacing.slope import MIN_POINTS, SlopeEstimate, end_slope
from raystage.pacing.stage import Change, Taken
from raystage.pacing.state import State

MAX_RELATIVE_ERROR = 1 / 3  # standard error over threshold above which a slope is not known well enough
MIN_STEADY_SHARE = 0.5  # of the window over which the learning rate must stand still
MAX_WINDOW_DECADES = 1.3  # of compute: what is further back says nothing about the slope now
MIN_WINDOW_DECADES = 0.03  # of compute: over less, what is left of the jump at a change would be taken for the slope
LOOK_SHARE = 0.01  # of the stage between two looks at the slope: each costs time, and is a chance to be wrong
_MAX_EARLY_POINTS = 10_000
_TYPICAL_SLOPE = -0.05  # for the slope that is shown where nothing waits for it


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """Something the slope may decide: the head of a track, or to stop. `slot`: where its checks in a row are counted."""

    slot: int
    change: Change | None
    threshold: float
    estimate: SlopeEstimate | None = None

    @property
    def action_kind(self) -> str:
        return self.change.kind if self.change else "stop"


@dataclasses.dataclass(frozen=True)
class _Verdict:
    """What a check says of one candidate: the trigger, or None and the reason why not; `agrees`: the slope was above its threshold."""

    candidate: _Candidate | None
    trigger: Trigger | None
    reason: str
    agrees: bool = False


def observe(policy: Policy, state: State, points: Iterable[Point]) -> tuple[State, list[Check]]:
    """The state after `points`, and the checks that came due on the way; `state.pending` is the decision, if one stands.

    Points may come late, twice or out of order: those at or below the watermark are passed over, those
    beyond the next number wait until the gap closes. So the decisions depend on the losses alone.
    """
    waiting = {point.step: point for point in (*state.early, *points) if point.step > state.watermark}
    checks: list[Check] = []
    while group := _next_group(policy, state.watermark, waiting):
        state, check = _advance(policy, state, group)
        if check:
            checks.append(check)
    early = tuple(waiting[step] for step in sorted(waiting)[:_MAX_EARLY_POINTS])
    return dataclasses.replace(state, early=early), checks


def _next_group(policy: Policy, watermark: int, waiting: dict[int, Point]) -> list[Point]:
    """The points that come next without a gap, of one stage and up to the next check; taken out of `waiting`."""
    group: list[Point] = []
    while (point := waiting.get(watermark + 1)) is not None and (not group or _stage(point) == _stage(group[0])):
        group.append(waiting.pop(point.step))
        watermark = point.step
        if watermark % policy.check_every_steps == 0:
            break
    return group


def _stage(of: Point | State) -> tuple[Taken, int]:
    """What has to be the same for two losses to lie on one curve."""
    return of.taken, of.n_rollbacks


def _advance(policy: Policy, state: State, group: list[Point]) -> tuple[State, Check | None]:
    last = group[-1]
    if _stage(last) != _stage(state):
        # curves of two stages are not comparable: the fit starts anew, and so does the dwell; the guard's answer is due all the same
        answer = state.pending if state.pending and state.pending.stands(last.taken, last.n_rollbacks) else None
        anew = State.at(last.taken, state.watermark, state.tokens_seen, last.n_rollbacks)
        state = dataclasses.replace(anew, pending=answer)
    # a decision that was not applied when its time came has been overruled by hand
    overruled = state.pending is not None and state.pending.effective_step <= last.step
    state = dataclasses.replace(
        state,
        watermark=last.step,
        tokens_seen=last.tokens_seen,
        progress=last.progress,
        tokens_per_parameter=last.tokens_per_parameter,
        open=state.open.plus(policy, group),
        pending=None if overruled else state.pending,
    )
    if last.step % policy.check_every_steps:
        return state, None
    was_unstable = state.unstable
    state, unstable = _close_interval(policy, state)
    if not unstable and not was_unstable and not _looks(policy, state):
        return state, None
    return _check(policy, state, unstable, trouble_begins=unstable is not None and not was_unstable, held=last.held)


def _looks(policy: Policy, state: State) -> bool:
    """Whether the stage has gone on far enough since the last look for another to tell something new."""
    dwell_tokens = state.tokens_seen - state.stage_start_tokens
    return _limit(policy, state) is not None or dwell_tokens >= (1 + LOOK_SHARE) * state.looked_at_tokens


def _limit(policy: Policy, state: State) -> str | None:
    """Why a stage ends here whatever its slope, if it does."""
    if policy.max_dwell_tokens is not None and state.tokens_seen - state.stage_start_tokens >= policy.max_dwell_tokens:
        return "max dwell"
    share = policy.last_call(policy.plan.n_by_slope(state.taken))
    return "last call" if share is not None and share <= state.progress < policy.decay_begins and _at_rest(policy, state) else None


def _at_rest(policy: Policy, state: State) -> bool:
    """Whether the stage has settled and the rate stands still: a change in a warmup would mix with the one before."""
    spent = state.tokens_seen - state.stage_start_tokens > max(policy.settle_tokens, policy.min_dwell_tokens)
    return spent and len(curve.steady_tail(state.bins)) >= MIN_POINTS


def _close_interval(policy: Policy, state: State) -> tuple[State, Unstable | None]:
    interval, new = state.open, state.open.bin()
    if interval.n_steps == 0:
        return dataclasses.replace(state, open=Interval(), unstable=False), None
    settled = state.tokens_seen - state.stage_start_tokens > policy.settle_tokens
    guard, unstable = judge(policy.guard, state.guard, interval, settled)
    fits = new is not None and new.tokens_seen - state.stage_start_tokens > policy.settle_tokens
    bins = curve.append(state.bins, new) if new is not None and fits else state.bins
    return dataclasses.replace(state, open=Interval(), guard=guard, bins=bins, unstable=unstable is not None), unstable


def _check(policy: Policy, state: State, unstable: Unstable | None, trouble_begins: bool, held: bool) -> tuple[State, Check]:
    verdicts, estimate = _verdicts(policy, state, unstable, held)
    verdict = next((v for v in verdicts if v.trigger), None) or _nearest(policy, verdicts)
    in_a_row = [0] * (len(state.taken) + 1)
    for agreeing in (v for v in verdicts if v.agrees and v.candidate):
        assert agreeing.candidate is not None
        in_a_row[agreeing.candidate.slot] = state.in_a_row[agreeing.candidate.slot] + 1
    decision = _decide(policy, state, verdict)
    candidate = verdict.candidate
    estimate = candidate.estimate if candidate and candidate.estimate else estimate
    check = Check(
        step=state.watermark,
        tokens_seen=state.tokens_seen,
        stage=sum(state.taken),
        change=candidate.action_kind if candidate else None,
        slope=estimate.slope if estimate else None,
        slope_se=estimate.standard_error if estimate else None,
        slope_bound=estimate.lower_bound(policy.confidence) if estimate else None,
        threshold=candidate.threshold if candidate else None,
        in_a_row=in_a_row[candidate.slot] if candidate else 0,
        fired=decision is not None,
        reason=verdict.reason,
        trouble_begins=trouble_begins,
    )
    looked_at_tokens = state.tokens_seen - state.stage_start_tokens
    return dataclasses.replace(state, in_a_row=tuple(in_a_row), pending=decision or state.pending, looked_at_tokens=looked_at_tokens), check


def _verdicts(policy: Policy, state: State, unstable: Unstable | None, held: bool) -> tuple[list[_Verdict], SlopeEstimate | None]:
    """One for each candidate; a single one where something holds them all back. And the slope, where nobody waits for it."""
    candidates = _candidates(policy, state.taken)
    answered = state.pending is not None and state.pending.trigger == "guard"
    if unstable and policy.guard.action != "hold" and not answered:  # unstable weights come before what the slope has decided
        return [_Verdict(None, "guard", unstable)], None
    window = _window(policy, state)
    steady = _settled_rate(policy, window)
    moves = len(steady) < max(1, MIN_STEADY_SHARE * len(window))
    if not candidates:
        waits = "before its time" if policy.plan.heads(state.taken) else "plan complete"
        reason = "decided" if state.pending else unstable or waits
        return [_Verdict(None, None, reason)], _fit(steady, moves, _TYPICAL_SLOPE)
    estimated = [dataclasses.replace(c, estimate=_fit(steady, moves, c.threshold)) for c in candidates]
    common = _common_reason(policy, state, unstable, held, window, moves)
    if common:
        return [_Verdict(c, None, common) for c in estimated], None
    return [_verdict(policy, state, c) for c in estimated], None


def _candidates(policy: Policy, taken: Taken) -> list[_Candidate]:
    heads = policy.plan.heads(taken)
    stop = policy.thresholds.get("stop")
    if not heads and stop is not None:
        return [_Candidate(len(taken), None, stop)]
    return [_Candidate(track, change, policy.threshold(change)) for track, change in heads if change.at is None]


def _common_reason(policy: Policy, state: State, unstable: Unstable | None, held: bool, window: tuple[Bin, ...], moves: bool) -> str | None:
    """Why no candidate can fire at this check."""
    dwell_tokens = state.tokens_seen - state.stage_start_tokens
    if state.pending:
        return "decided"
    if held:
        return "held by hand"
    if unstable:
        return unstable
    limit = _limit(policy, state)
    if len(window) > 0 and moves and limit != "last call":
        return "lr moves"
    if limit:
        return None
    if len(window) < MIN_POINTS or window[-1].log_x - window[0].log_x < MIN_WINDOW_DECADES:
        return "settling"
    if dwell_tokens <= policy.min_dwell_tokens:
        return "min dwell"
    return None


def _verdict(policy: Policy, state: State, candidate: _Candidate) -> _Verdict:
    if candidate.change and (limit := _limit(policy, state)):
        return _Verdict(candidate, "max_dwell", limit)
    if candidate.change and candidate.change.grows and _is_young(policy, state):
        return _Verdict(candidate, None, "min tokens")
    estimate, threshold = candidate.estimate, candidate.threshold
    if estimate is None:
        return _Verdict(candidate, None, "settling")
    if estimate.standard_error > MAX_RELATIVE_ERROR * abs(threshold):
        return _Verdict(candidate, None, "too noisy")
    bound = estimate.lower_bound(policy.confidence)
    if bound <= threshold:
        return _Verdict(candidate, None, "below threshold")
    if bound > 0:
        return _Verdict(candidate, None, "loss rises")  # recovering or diverging: saturating losses still fall
    if state.in_a_row[candidate.slot] + 1 < policy.checks_in_a_row:
        return _Verdict(candidate, None, "above threshold", agrees=True)
    return _Verdict(candidate, "slope", "slope", agrees=True)


def _is_young(policy: Policy, state: State) -> bool:
    """Whether the model has seen too little for a slope to tell its saturation from a plateau before its steepest fall."""
    return state.tokens_per_parameter is not None and state.tokens_per_parameter < policy.min_tokens_per_parameter


def _nearest(policy: Policy, verdicts: list[_Verdict]) -> _Verdict:
    """The verdict to show where none fired: that of the candidate that is nearest to its threshold."""

    def missing(verdict: _Verdict) -> float:
        candidate = verdict.candidate
        if candidate is None or candidate.estimate is None:
            return 0.0
        return 1 - candidate.estimate.lower_bound(policy.confidence) / candidate.threshold

    return max(verdicts, key=missing)


def _decide(policy: Policy, state: State, verdict: _Verdict) -> Decision | None:
    if verdict.trigger is None:
        return None
    candidate = verdict.candidate
    estimate = candidate.estimate if candidate else None
    return Decision(
        action=policy.guard.action if candidate is None else ("change" if candidate.change else "stop"),
        taken=state.taken,
        check_step=state.watermark,
        effective_step=state.watermark + policy.lag_steps,
        trigger=verdict.trigger,
        track=candidate.slot if candidate and candidate.change else 0,
        change=candidate.change if candidate else None,
        slope=estimate.slope if estimate else None,
        slope_se=estimate.standard_error if estimate else None,
        threshold=candidate.threshold if candidate else None,
        reason=verdict.reason,
        n_rollbacks=state.n_rollbacks,
    )


def _window(policy: Policy, state: State) -> tuple[Bin, ...]:
    """The latest share of the settled stage, as far back as it bears on the slope now."""
    if not state.bins:
        return ()
    start = state.stage_start_tokens + policy.settle_tokens
    cut = state.tokens_seen - policy.window_fraction * (state.tokens_seen - start)
    oldest = state.bins[-1].log_x - MAX_WINDOW_DECADES
    begin = max(bisect_left(state.bins, cut, key=attrgetter("tokens_seen")), bisect_left(state.bins, oldest, key=attrgetter("log_x")))
    return state.bins[begin:]


def _settled_rate(policy: Policy, window: tuple[Bin, ...]) -> tuple[Bin, ...]:
    """The part of a window over which the learning rate stands still, less the span that the loss needs to settle after a move."""
    steady = curve.steady_tail(window)
    if len(steady) == len(window):
        return steady
    return tuple(b for b in steady if b.tokens_seen > steady[0].tokens_seen + policy.settle_tokens) if steady else ()


def _fit(steady: tuple[Bin, ...], moves: bool, threshold: float) -> SlopeEstimate | None:
    return None if moves else end_slope(*curve.log_axes(steady), threshold)
