"""The keys of pacing: when a stage ends and what comes next."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raystage.config.fields import STRICT, Fraction, Length, NonNegative, Positive

SETTLE_STEPS, MIN_DWELL_STEPS = 120, 200  # what null means for the spans of pacing, times training.batch_tokens
LENGTH_RULES = ("constant", "two_stage", "linear", "root", "discrete")  # these say when the length changes, and nothing else

_KIND = "(length|depth|width|batch)"
OrderEntry = Annotated[
    str,
    Field(
        pattern=rf"^(both|{_KIND}(\+{_KIND})*)$",
        json_schema_extra={"allowed": "one of length, depth, width, batch, both, or several joined by +"},
    ),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Thresholds:
    """Slopes d log10(loss) / d log10(compute), all below zero; a stage ends when its slope stays above."""

    length: float = Field(
        default=-0.20, lt=0, description="slope above which the sequence length is raised (measured, see docs/defaults.md)"
    )
    depth: float = Field(
        default=-0.115, lt=0, description="slope above which layers are added (measured, see docs/defaults.md; Shen et al. 2022: -0.0575)"
    )
    width: float = Field(default=-0.0475, lt=0, description="slope above which channels are added (Shen et al. 2022)")
    both: float = Field(default=-0.03, lt=0, description="slope above which layers and channels are added at once (Shen et al. 2022)")
    batch: float = Field(default=-0.05, lt=0, description="slope above which the batch is raised (not measured)")
    stop: float | None = Field(
        default=None, lt=0, description="slope above which training ends when the plan is complete (Shen et al.: -0.052); null: never"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Warmup:
    fraction: Fraction = Field(default=0.3, description="share of the duration at whose end the last length begins")
    degree: float = Field(default=2.0, gt=0, description="of rule root: lengths rise as its root of the share of the warmup that is done")
    step_tokens: Length | None = Field(
        default=None, description="[tokens] fills pacing.lengths with every multiple in between; null: they stand as they are"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Guard:
    loss_ratio: float | None = Field(
        default=1.2, gt=1, description="mean loss between two checks over the best of the stage; above it training is unstable (SLW)"
    )
    grad_norm_ratio: float | None = Field(
        default=None, gt=1, description="largest gradient norm between two checks over its running mean; null: not watched"
    )
    second_moment_ratio: float | None = Field(
        default=None, gt=1, description="Adam's largest second moment over its running mean; null: not watched"
    )
    action: Literal["hold", "rollback", "stop"] = Field(
        default="hold",
        description="hold: no new change by slope until it is over; rollback: to the last good checkpoint, data moved on; stop: the run",
    )
    non_finite: Literal["rollback", "stop"] = Field(
        default="rollback", description="what a loss or gradient that is not finite does; a rollback needs a checkpoint"
    )
    max_rollbacks: NonNegative = Field(default=3, description="[rollbacks] before the run stops with an error")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pacing:
    rule: Literal["slope", "table", "constant", "two_stage", "linear", "root", "discrete"] = Field(
        default="slope",
        description="slope: the loss decides; table: at fixed shares of the duration; the others fix lengths, and growth goes by slope",
    )
    lengths: tuple[Length, ...] | None = Field(
        default=None, description="[tokens] sequence lengths in order, up to model.context_length; null: the length stays"
    )
    depths: tuple[NonNegative, ...] | None = Field(
        default=None, description="[layers] model depths in order, up to model.n_layer, from 0 on; null: no growth"
    )
    widths: tuple[Positive, ...] | None = Field(
        default=None, description="[channels] model widths in order, up to model.d_model; heads and d_ff in proportion; null: no growth"
    )
    batches: tuple[Positive, ...] | None = Field(
        default=None, description="[tokens] batches in order, up to training.batch_tokens; null: that one at every stage"
    )
    order: Literal["free"] | tuple[OrderEntry, ...] | None = Field(
        default=None,
        description="of the changes, like [length, depth+width]; both: depth and width at once; free: whichever reaches its threshold "
        "first; null: all lengths, then depths, widths, batches",
    )
    at: tuple[Fraction, ...] | None = Field(
        default=None, description="share of the duration at which each change happens (rules table and discrete)"
    )
    warmup: Warmup = Field(default=Warmup(), description="how lengths rise (rules two_stage, linear, root)")
    thresholds: Thresholds = Field(default=Thresholds(), description="slopes that end a stage, wherever the slope decides")
    signal: Literal["loss", "probe"] = Field(
        default="loss", description="what the slope is of: the training loss, or the loss on fixed held-out rows at the stage's length"
    )
    probe_tokens: Positive | None = Field(
        default=None, description="[tokens] of that probe, run once a check (signal: probe); null: half of training.batch_tokens"
    )
    axis: Literal["compute", "tokens", "seconds"] = Field(default="compute", description="what the slope is per")
    check_every_steps: Positive = Field(
        default=10, description="[steps] between checks, in a long stage at least 1% of it; a decision takes effect one interval later"
    )
    checks_in_a_row: Positive = Field(default=2, description="[checks] that must agree before a change")
    confidence: float = Field(default=0.99, ge=0.5, lt=1, description="one-sided confidence that the slope is above its threshold")
    window_fraction: float = Field(default=0.95, gt=0, le=1, description="latest share of the settled stage that the slope is fitted on")
    settle_tokens: int | None = Field(default=None, ge=0, description="[tokens] after a change that no fit sees; null: 120 steps' worth")
    min_dwell_tokens: int | None = Field(default=None, ge=0, description="[tokens] before a stage may end; null: 200 steps' worth")
    min_tokens_per_parameter: float = Field(
        default=20.0,
        ge=0,
        description="[effective tokens a parameter that multiplies] before the slope may grow the model; 20: below, it is not yet "
        "compute-optimal (Hoffmann et al. 2203.15556)",
    )
    max_dwell_tokens: Positive | None = Field(
        default=None,
        description="[tokens] after which a stage ends whatever its slope, unless the rate moves; "
        "null: in time for all changes to come before the rate decays",
    )
    guard: Guard = Field(default=Guard(), description="what counts as unstable, and what happens then")
    cutting: Literal["segment", "truncate", "recycle"] = Field(
        default="segment",
        description="long rows are cut into several short ones, or cut off; recycle: and trained whole once the length is full",
    )
