"""The runs that the bench of growth's dynamics compares: which there are, and how long and at what rate each trains."""

import dataclasses
from typing import Literal

Kind = Literal["width", "depth"]
Variant = Literal["full", "moments reset", "rate not moved"]

KINDS: tuple[Kind, ...] = ("width", "depth")
VARIANTS: tuple[Variant, ...] = ("full", "moments reset", "rate not moved")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Lengths in steps of `batch_tokens`. `lr_*`: constant after the warmup, one a size (docs/growth_bench.md)."""

    seeds: int = 3
    batch_tokens: int = 4096
    source_steps: int = 1000
    target_steps: int = 1500
    window_steps: int = 400
    warmup_steps: int = 50
    rewarm_steps: int = 100
    validate_every_steps: int = 10
    validation_rows: int = 64
    lr_target: float = 0.005
    lr_width_source: float = 0.01
    lr_depth_source: float = 0.007

    def source_lr(self, kind: Kind) -> float:
        return self.lr_width_source if kind == "width" else self.lr_depth_source


TINY = Settings(
    seeds=2,
    batch_tokens=512,
    source_steps=40,
    target_steps=200,
    window_steps=40,
    warmup_steps=5,
    rewarm_steps=10,
    validate_every_steps=5,
    validation_rows=8,
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One run. `kind` None: the target from scratch; `variant` None with a kind: the small model that is grown later."""

    seed: int
    kind: Kind | None = None
    variant: Variant | None = None

    @property
    def name(self) -> str:
        """For files and progress."""
        role = f"{self.kind}-{self.variant or 'source'}" if self.kind else "target"
        return f"seed{self.seed}-{role.replace(' ', '_')}"

    @property
    def source(self) -> "Arm | None":
        """The run whose last state this one grows."""
        return Arm(self.seed, self.kind) if self.variant else None

    def steps(self, settings: Settings) -> int:
        """How many it trains itself."""
        if self.variant:
            return settings.rewarm_steps + settings.window_steps
        return settings.source_steps if self.kind else settings.target_steps

    def learning_rate(self, settings: Settings, step: int) -> float:
        """Of its own step `step`, from 1: linear warmup (re-warmup after growth) to a constant."""
        at_source_rate = self.variant in (None, "rate not moved")
        peak = settings.source_lr(self.kind) if self.kind and at_source_rate else settings.lr_target
        if self.variant == "rate not moved":
            return peak
        return peak * min(1.0, step / (settings.rewarm_steps if self.variant else settings.warmup_steps))


def first_arms(settings: Settings) -> list[Arm]:
    """Runs that wait for no other."""
    return [Arm(seed, kind) for seed in range(settings.seeds) for kind in (None, *KINDS)]


def grown_arms(settings: Settings) -> list[Arm]:
    """Runs that grow a source."""
    return [Arm(seed, kind, variant) for seed in range(settings.seeds) for kind in KINDS for variant in VARIANTS]
