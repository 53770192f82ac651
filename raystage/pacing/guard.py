"""The guard: is training stable? Loss ratio, gradient norm and Adam's largest second moment (SLW, 2108.06084)."""

import dataclasses
from typing import Literal

from raystage.pacing.interval import Interval
from raystage.pacing.policy import GuardPolicy

Unstable = Literal["loss ratio", "gradient norm", "second moment"]
UNSTABLE: tuple[Unstable, ...] = ("loss ratio", "gradient norm", "second moment")
_MEMORY = 0.95  # share of a running mean that stays at each calm interval
_SURE_AFTER = 5  # calm intervals before a running mean is judged by


@dataclasses.dataclass(frozen=True)
class GuardState:
    """Of the present stage: the best mean loss of an interval, running means of the others, and how many intervals made them."""

    best_loss: float | None = None
    grad_norm: float = 0.0
    second_moment: float = 0.0
    n_calm: int = 0


def judge(policy: GuardPolicy, state: GuardState, interval: Interval, settled: bool = True) -> tuple[GuardState, Unstable | None]:
    """What is unstable in this interval, the first of them; a calm one moves the means, an unstable one does not.

    Until the stage has `settled` it is the loss alone: a switch that diverges does so at once, and one that recovers never passes where
    it began; gradients and moments of the first steps are far from what follows.
    """
    unstable = _unstable(policy, state, interval)
    if unstable:
        return state, unstable
    best_loss = interval.loss if state.best_loss is None else min(state.best_loss, interval.loss)
    if not settled:
        return dataclasses.replace(state, best_loss=best_loss), None
    share = max(1 - _MEMORY, 1 / (state.n_calm + 1))
    calm = GuardState(
        best_loss=best_loss,
        grad_norm=state.grad_norm + share * (interval.grad_norm - state.grad_norm),
        second_moment=_mean_moment(state.second_moment, interval.second_moment, share),
        n_calm=state.n_calm + 1,
    )
    return calm, None


def _mean_moment(mean: float, measured: float | None, share: float) -> float:
    """Not every interval has one: the mean begins at the first that was measured, not on the way to it from zero."""
    if measured is None:
        return mean
    return measured if mean == 0 else mean + share * (measured - mean)


def _unstable(policy: GuardPolicy, state: GuardState, interval: Interval) -> Unstable | None:
    if policy.loss_ratio is not None and state.best_loss is not None and interval.loss > policy.loss_ratio * state.best_loss:
        return "loss ratio"
    if state.n_calm < _SURE_AFTER:
        return None
    if policy.grad_norm_ratio is not None and interval.grad_norm > policy.grad_norm_ratio * state.grad_norm:
        return "gradient norm"
    moment, ratio = interval.second_moment, policy.second_moment_ratio
    if ratio is not None and moment is not None and state.second_moment > 0 and moment > ratio * state.second_moment:
        return "second moment"
    return None
