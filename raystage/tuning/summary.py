"""What a search cost and came to."""

import dataclasses
from collections import Counter

from raystage.config.search_space import Point
from raystage.runtime.plan_stages import planned_stages
from raystage.tuning.book import Book
from raystage.tuning.point_result import PointResult
from raystage.tuning.trial_config import TrialConfigs


@dataclasses.dataclass(frozen=True)
class Summary:
    """`run_flops`: of the run that the search is for; `counts`: of trials, by how they ended; `why`: how the chosen point was found."""

    flops: float
    run_flops: float
    counts: dict[str, int]
    chosen: Point | None
    result: PointResult | None
    why: str

    @property
    def share(self) -> float:
        """Of one full run."""
        return self.flops / self.run_flops

    def __str__(self) -> str:
        counted = ", ".join(f"{n} {how}" for how, n in self.counts.items() if n)
        return f"{sum(self.counts.values())} trials ({counted}), {self.flops:.3g} FLOPs, {self.share:.1%} of one full run"


def summary_of(book: Book, configs: TrialConfigs) -> Summary:
    """Of what the book knows by now."""
    outcomes, told = list(book.outcomes.values()), book.told
    counts = Counter({"good": 0, "rejected": 0, "ended early": 0, "failed": 0, "under way": 0})
    counts.update("good" if o.is_good else o.status if o.status != "done" else "rejected" for o in outcomes)
    counts["under way"] = len(book.trials) - len(book.outcomes)
    chosen = book.strategy.chosen(told)
    return Summary(
        flops=sum(outcome.flops for outcome in outcomes),
        run_flops=sum(stage.flops for stage in planned_stages(configs.base)),
        counts=dict(counts),
        chosen=chosen,
        result=told[chosen] if chosen else None,
        why=book.strategy.why(told),
    )
