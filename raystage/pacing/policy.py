"""What the controller is told once: the plan, the rule and its thresholds."""

import dataclasses
from typing import Literal

from raystage.pacing.stage import ChangeKind, Plan


@dataclasses.dataclass(frozen=True)
class Policy:
    """Units: tokens are target tokens seen; `at` holds shares of the run's duration.

    A decision of the check at step c takes effect at step c + check_every_steps + 1: the step
    after the next check, so that no rank ever waits for the controller.
    """

    plan: Plan
    rule: Literal["slope", "table"]
    thresholds: dict[ChangeKind, float]
    check_every_steps: int
    checks_in_a_row: int
    confidence: float
    window_fraction: float
    settle_tokens: float
    min_dwell_tokens: float
    max_dwell_tokens: float | None
    at: tuple[float, ...] = ()

    @property
    def lag_steps(self) -> int:
        return self.check_every_steps + 1
