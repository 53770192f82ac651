"""What a run is on its way to, as far as the terminal says it."""

import dataclasses

from raystage.config import Config
from raystage.config.duration import Duration, parse_duration
from raystage.training.policy import plan_of


@dataclasses.dataclass(frozen=True)
class Goal:
    """`n_stages`: of the plan, where it is known; `looks`: checks in a row that have to find the slope above its threshold."""

    duration: Duration
    n_stages: int | None = None
    looks: int | None = None

    @classmethod
    def of(cls, config: Config) -> "Goal":
        """The goal that a configuration sets."""
        return cls(parse_duration(config.training.duration), len(plan_of(config).changes) + 1, config.pacing.checks_in_a_row)
