"""The steps between two checks, summed up as they come."""

import dataclasses
import math
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
        n_steps, n_signal, second_moment = self.n_steps, self.n_signal, self.second_moment
        loss_sum, signal_sum, log_x_sum, tokens_sum = self.loss_sum, self.signal_sum, self.log_x_sum, self.tokens_sum
        grad_norm, lr_min, lr_max = self.grad_norm, self.lr_min, self.lr_max
        # one after the other, so that the sums do not depend on how many points come at once
        for point in points:
            if not point.is_finite:
                continue
            n_steps += 1
            loss_sum += point.loss
            grad_norm = max(grad_norm, point.grad_norm)
            lr_min, lr_max = min(lr_min, point.lr), max(lr_max, point.lr)
            if point.second_moment is not None:
                second_moment = max(second_moment or 0.0, point.second_moment)
            signal = point.loss if policy.signal == "loss" else point.probe_loss
            if signal is not None and math.isfinite(signal):
                n_signal += 1
                signal_sum += signal
                log_x_sum += math.log10(_axis_value(policy, point))
                tokens_sum += point.tokens_seen
        return Interval(n_steps, loss_sum, grad_norm, second_moment, lr_min, lr_max, n_signal, signal_sum, log_x_sum, tokens_sum)

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
