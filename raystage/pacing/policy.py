"""What the controller is told once: the plan, the rule and its thresholds."""

import dataclasses
from typing import Literal

from raystage.pacing.stage import Change, Plan


@dataclasses.dataclass(frozen=True)
class GuardPolicy:
    """Ratios above which an interval of steps counts as unstable; None: not looked at.

    `loss_ratio`: mean loss over the best of the stage (SLW, 2108.06084); `grad_norm_ratio`, `second_moment_ratio`: the largest of the
    interval over the stage's running mean.
    """

    loss_ratio: float | None = 1.2
    grad_norm_ratio: float | None = None
    second_moment_ratio: float | None = None
    action: Literal["hold", "rollback", "stop"] = "hold"


@dataclasses.dataclass(frozen=True)
class Policy:
    """Units: tokens are target tokens seen. `thresholds`: by kind of change, and `stop`. `min_tokens_per_parameter`: effective tokens a
    parameter that multiplies, before the slope may grow the model. `last_calls`: the share of the duration at which
    a stage ends at the latest, by the changes by slope that are left then, from one on; none: no such end. `decay_begins`: the share at
    which the learning rate begins to fall.

    A decision of the check at step c takes effect at step c + check_every_steps + 1: the step
    after the next check, so that no rank ever waits for the controller.
    """

    plan: Plan
    thresholds: dict[str, float | None]
    check_every_steps: int
    checks_in_a_row: int
    confidence: float
    window_fraction: float
    settle_tokens: float
    min_dwell_tokens: float
    max_dwell_tokens: float | None
    min_tokens_per_parameter: float = 0.0
    last_calls: tuple[float, ...] = ()
    decay_begins: float = 1.0
    signal: Literal["loss", "probe"] = "loss"
    axis: Literal["compute", "tokens", "seconds"] = "compute"
    guard: GuardPolicy = dataclasses.field(default_factory=GuardPolicy)

    @property
    def lag_steps(self) -> int:
        return self.check_every_steps + 1

    def last_call(self, n_left: int) -> float | None:
        """The share of the duration at which a stage ends whatever its slope, with so many changes by slope left."""
        return self.last_calls[n_left - 1] if 0 < n_left <= len(self.last_calls) else None

    def threshold(self, change: Change) -> float:
        """That of its kind; of several kinds at once the last to be reached."""
        return max(self._of(kind) for kind in change.threshold_kinds)

    def _of(self, kind: str) -> float:
        threshold = self.thresholds[kind]
        assert threshold is not None
        return threshold
