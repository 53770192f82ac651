"""What a run has done so far: the counts that every rank keeps alike and every checkpoint holds."""

import dataclasses
import math
from typing import Any

from raystage.config.duration import Duration
from raystage.config.schema import GrowthMethod
from raystage.pacing.stage import Change, Shape


@dataclasses.dataclass(frozen=True)
class Counters:
    """Units: tokens are target tokens over all ranks; `cursor` is the place in the global order of tokens.

    `effective_tokens`: tokens seen, put back by rho at each growth; `flops`: really spent, every stage charged;
    `lr_shift`: progress that growth has put the learning-rate schedule back by; `grown_at_step`: of the last
    growth; `elapsed_s`: wall time of training as rank 0 told it at the last boundary.
    """

    step: int = 0
    tokens_seen: int = 0
    tokens_dropped: int = 0
    cursor: int = 0
    flops: float = 0.0
    effective_tokens: float = 0.0
    lr_shift: float = 0.0
    grown_at_step: int | None = None
    elapsed_s: float = 0.0

    def after_step(self, tokens: int, dropped: int, cursor: int, flops: float) -> "Counters":
        return dataclasses.replace(
            self,
            step=self.step + 1,
            tokens_seen=self.tokens_seen + tokens,
            tokens_dropped=self.tokens_dropped + dropped,
            cursor=cursor,
            flops=self.flops + flops,
            effective_tokens=self.effective_tokens + tokens,
        )

    def after_growth(self, change: Change, before: Shape, growth: GrowthMethod, progress: float) -> "Counters":
        """The clock put back to where a from-scratch model of the new size would have this loss.

        rho for a doubling (Shen et al. 2203.06211: depth 0.70, width 0.55, both at once 0.40); a factor of 2^n counts n times.
        Both at once by unlike factors counts the part they share as both and the rest by itself. Growth from no layers counts as
        from one.
        """
        deeper = math.log2((change.n_layer or before.n_layer or 1) / (before.n_layer or 1))
        wider = math.log2((change.d_model or before.d_model) / before.d_model)
        shared = min(deeper, wider)
        rho = growth.rho_both**shared * growth.rho_depth ** (deeper - shared) * growth.rho_width ** (wider - shared)
        return dataclasses.replace(
            self,
            effective_tokens=self.effective_tokens * rho,
            lr_shift=progress - (progress - self.lr_shift) * rho,
            grown_at_step=self.step,
        )

    def progress(self, duration: Duration) -> float:
        """Share of the duration done; 1 or more when the run is over."""
        done = {"steps": self.step, "tokens": self.tokens_seen, "flops": self.flops, "hours": self.elapsed_s / 3600}
        return done[duration.unit] / duration.amount

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Counters":
        return Counters(**tree)
