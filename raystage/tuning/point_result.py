"""A point over its seeds: mean and spread of the objective, and whether it may be chosen."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from raystage.config.search_space import Point
from raystage.tuning.outcome import Outcome

_ALIKE = 1.02  # FLOPs

Told = Mapping[Point, "PointResult"]  # the points whose trials have all ended


@dataclasses.dataclass(frozen=True)
class PointResult:
    """`spread`: standard deviation over seeds, 0 with one; `rejected`: why it may not be chosen, None where it may."""

    value: float | None
    spread: float
    rejected: str | None
    failed: bool
    ended_early: bool
    flops: float
    seconds: float
    n_seeds: int

    @property
    def is_good(self) -> bool:
        return self.rejected is None and self.value is not None


def result_of(outcomes: Sequence[Outcome]) -> PointResult:
    """One seed that breaks a constraint rejects the point."""
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    failed = any(outcome.status == "failed" for outcome in outcomes)
    early = any(outcome.status == "ended early" for outcome in outcomes)
    rejected = next((outcome.rejected for outcome in outcomes if outcome.rejected), None)
    rejected = "its trial failed" if failed else rejected or ("ended early: others were ahead" if early else None)
    return PointResult(
        value=statistics.fmean(values) if len(values) == len(outcomes) else None,
        spread=statistics.stdev(values) if len(values) > 1 else 0.0,
        rejected=rejected,
        failed=failed,
        ended_early=early,
        flops=sum(outcome.flops for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
        n_seeds=len(outcomes),
    )


def best_of(told: Told) -> Point | None:
    """The good point of least value; among those within the spread over seeds of it, of the cheapest the one of least value."""
    good = {point: (result.value, result.flops) for point, result in told.items() if result.is_good and result.value is not None}
    if not good:
        return None
    spread = statistics.fmean(told[point].spread ** 2 for point in good) ** 0.5
    least = min(value for value, _ in good.values())
    tied = {point: of for point, of in good.items() if of[0] <= least + spread}
    cheapest = min(flops for _, flops in tied.values())
    # trials at equal compute differ by their last step
    return min((point for point, (_, flops) in tied.items() if flops <= _ALIKE * cheapest), key=lambda point: (tied[point][0], point))
