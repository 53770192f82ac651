"""Counts of a run that every checkpoint holds."""

import dataclasses
import math
from typing import Any

from raystage.config.duration import Duration
from raystage.config.schema import GrowthMethod
from raystage.data.place import Place
from raystage.data.step_cut import Cut
from raystage.pacing.stage import Change, Shape


@dataclasses.dataclass(frozen=True)
class Counters:
    """Units: tokens are target tokens over all ranks; `place`: in the global order of tokens, with the account of each.

    `effective_tokens`: tokens seen, put back by rho at each growth; `flops`: really spent, every stage charged;
    `lr_shift`: progress that growth has put the learning-rate schedule back by; `grown_at_step`: of the last growth; `elapsed_s`: wall
    time of training as rank 0 told it at the last boundary; `duration_share`: of the configured duration, below 1 once the slope has
    ended the run; `held`: pacing waits for a word by hand; `tokens_undone`: seen, and unlearned by rollbacks.
    """

    step: int = 0
    tokens_seen: int = 0
    place: Place = dataclasses.field(default_factory=Place)
    flops: float = 0.0
    effective_tokens: float = 0.0
    lr_shift: float = 0.0
    grown_at_step: int | None = None
    elapsed_s: float = 0.0
    duration_share: float = 1.0
    held: bool = False
    tokens_undone: int = 0
    n_rollbacks: int = 0

    def after_step(self, cut: Cut, flops: float) -> "Counters":
        return dataclasses.replace(
            self,
            step=self.step + 1,
            tokens_seen=self.tokens_seen + cut.tokens,
            place=cut.place_after,
            flops=self.flops + flops,
            effective_tokens=self.effective_tokens + cut.tokens,
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

    def after_rollback(self, restored: "Counters", context_length: int) -> "Counters":
        """These counters with the parameters of a checkpoint whose counters were `restored`.

        Steps, tokens and FLOPs go on, since they were spent, and so does the data; what belongs to the parameters goes back, the place in a
        growth's warmup too.
        """
        grown = restored.grown_at_step
        return dataclasses.replace(
            self,
            effective_tokens=restored.effective_tokens,
            lr_shift=restored.lr_shift,
            grown_at_step=None if grown is None else grown + self.step - restored.step,
            place=restored.place.after_rollback(self.place, context_length),
            tokens_undone=restored.tokens_undone + self.tokens_seen - restored.tokens_seen,
            n_rollbacks=self.n_rollbacks + 1,
        )

    def after_stop(self, duration: Duration, decay_fraction: float) -> "Counters":
        """The duration cut so that what is left of it is the decay of the learning rate, the last `decay_fraction` of the whole."""
        done = self.progress(duration) * self.duration_share
        return dataclasses.replace(self, duration_share=min(self.duration_share, done / (1 - decay_fraction)))

    def under(self, before: Duration, now: Duration) -> "Counters":
        """These counters where the configured duration was `before` and is `now`: what is kept as a share of it is a share of the other.

        Where they differ, an end that the slope had set before the duration's own holds no longer: the slope is asked anew.
        """
        if before == now:
            return self
        free = dataclasses.replace(self, duration_share=1.0)
        done = self.progress(before)
        return dataclasses.replace(free, lr_shift=self.lr_shift * free.progress(now) / done if done else 0.0)

    def progress(self, duration: Duration) -> float:
        """Share of the duration done; 1 or more when the run is over."""
        return self.share_of(duration) / self.duration_share

    def share_of(self, budget: Duration) -> float:
        """Share of a budget spent."""
        done = {"steps": self.step, "tokens": self.tokens_seen, "flops": self.flops, "hours": self.elapsed_s / 3600}
        return done[budget.unit] / budget.amount

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "place": self.place.to_json()}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Counters":
        return Counters(**{**tree, "place": Place.from_json(tree["place"])})
