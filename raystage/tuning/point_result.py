"""A point over its seeds: mean and spread of the objective, and whether it may be chosen."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from raystage.config.search_space import Point
from raystage.tuning.outcome import Outcome

Told = Mapping[Point, "PointResult"]  # the points whose trials have all ended


@dataclasses.dataclass(frozen=True)
class PointResult:
    """`spread`: standard deviation over seeds, 0 with one; `rejected`: why it may not be chosen, None where it may."""

    value: float | None
    spread: float
    rejected: str | None
    failed: bool
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
    rejected = rejected or ("its trial failed" if failed else "ended early: others were ahead" if early else None)
    return PointResult(
        value=statistics.fmean(values) if len(values) == len(outcomes) else None,
        spread=statistics.stdev(values) if len(values) > 1 else 0.0,
        rejected=rejected,
        failed=failed,
        flops=sum(outcome.flops for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
        n_seeds=len(outcomes),
    )


def best_of(told: Told) -> Point | None:
    """The good point of least value; among those within the spread over seeds of it, the cheapest: in FLOPs, then in time."""
    good = {point: result for point, result in told.items() if result.is_good}
    if not good:
        return None
    least = min(result.value for result in good.values() if result.value is not None)
    spread = statistics.fmean(result.spread**2 for result in good.values()) ** 0.5
    tied = [point for point, result in good.items() if result.value is not None and result.value <= least + spread]
    # trials at equal compute differ by their last step: FLOPs to two digits
    return min(tied, key=lambda point: (float(f"{good[point].flops:.1e}"), good[point].seconds, point))
