"""The steps between two checks, summed up as they come."""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence

from raystage.pacing.curve import Bin
from raystage.pacing.point import Point
from raystage.pacing.policy import Policy


@dataclasses.dataclass(frozen=True)
class Interval:
    """Sums over the points since the last check; those of the signal only over points that have it.

    `grad_norm`, `second_moment`: the largest; `loss_sum`: of the training loss, which the guard watches whatever the signal.
    """

    n_steps: int = 0
    loss_sum: float = 0.0
    grad_norm: float = 0.0
    second_moment: float | None = None
    lr_min: float = math.inf
    lr_max: float = 0.0
    n_signal: int = 0
    signal_sum: float = 0.0
    log_x_sum: float = 0.0
    tokens_sum: float = 0.0

    @property
    def loss(self) -> float:
        """Mean over its steps, of which there must be one."""
        return self.loss_sum / self.n_steps

    def plus(self, policy: Policy, points: Sequence[Point]) -> "Interval":
        """With more steps; one whose loss or gradient is not finite is left to the rollback that follows it."""
        finite = [p for p in points if p.is_finite]
        if not finite:
            return self
        moments = [m for m in (self.second_moment, *(p.second_moment for p in finite)) if m is not None]
        signals = [(p.loss if policy.signal == "loss" else p.probe_loss, p) for p in finite]
        signal_sum, log_x_sum, tokens_sum = self.signal_sum, self.log_x_sum, self.tokens_sum
        # one after the other, so that the sums do not depend on how many points come at once
        for signal, point in signals:
            if signal is not None:
                signal_sum += signal
                log_x_sum += math.log10(_axis_value(policy, point))
                tokens_sum += point.tokens_seen
        return Interval(
            n_steps=self.n_steps + len(finite),
            loss_sum=functools.reduce(operator.add, (p.loss for p in finite), self.loss_sum),
            grad_norm=max(self.grad_norm, *(p.grad_norm for p in finite)),
            second_moment=max(moments, default=None),
            lr_min=min(self.lr_min, *(p.lr for p in finite)),
            lr_max=max(self.lr_max, *(p.lr for p in finite)),
            n_signal=self.n_signal + sum(signal is not None for signal, _ in signals),
            signal_sum=signal_sum,
            log_x_sum=log_x_sum,
            tokens_sum=tokens_sum,
        )

    def bin(self) -> Bin | None:
        """The interval as one point of the curve; None without a signal."""
        n = self.n_signal
        if n == 0:
            return None
        return Bin(self.n_steps, self.tokens_sum / n, self.log_x_sum / n, self.signal_sum / n, self.lr_min, self.lr_max)


def _axis_value(policy: Policy, point: Point) -> float:
    """x of the slope; within a stage compute and tokens tell the same but for what growth has put back."""
    if policy.axis == "compute":
        return point.compute
    return point.tokens_seen if policy.axis == "tokens" else point.seconds
