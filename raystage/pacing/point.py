"""What goes into the controller and what comes out of it: points, checks, decisions."""

import dataclasses
import math
from typing import Any, Literal

from raystage.pacing.stage import Change, Taken

Trigger = Literal["slope", "max_dwell", "schedule", "guard", "manual"]
Action = Literal["change", "hold", "resume", "rollback", "stop", "refuse"]


@dataclasses.dataclass(frozen=True)
class Point:
    """One training step as the controller sees it. Points are numbered by `step` from 1 without gaps.

    `loss`: mean over the target tokens of all ranks; `tokens_seen`: up to and with this step; `compute`: 6 x parameters x effective
    tokens; `tokens_per_parameter`: effective tokens a parameter that multiplies (None: not known); `seconds`: wall time of training;
    `progress`: share of the duration done; `taken`: the changes that lie behind, by track; `held`: pacing is on hold by hand; a step that
    follows a rollback counts it in `n_rollbacks`, its compute lies further back; a loss may be NaN. Only some steps have the loss of the
    fixed probe, and Adam's largest second moment.
    """

    step: int
    loss: float
    tokens_seen: float
    compute: float
    seconds: float
    lr: float
    progress: float
    taken: Taken
    grad_norm: float = 0.0
    held: bool = False
    n_rollbacks: int = 0
    probe_loss: float | None = None
    second_moment: float | None = None
    tokens_per_parameter: float | None = None

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are: the gradient ruins the weights, the loss tells only a step later."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def to_json(self) -> dict[str, Any]:
        # JSON has no NaN
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in vars(self).items()}
        return {**finite, "taken": list(self.taken)}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Point":
        """From a dict that may hold more than a point's fields."""
        names = {field.name for field in dataclasses.fields(Point)} & tree.keys()
        values: dict[str, Any] = {name: tree[name] for name in names} | {"taken": tuple(tree["taken"])}
        values |= {name: math.nan for name in ("loss", "grad_norm") if values.get(name, 0.0) is None}
        return Point(**values)


@dataclasses.dataclass(frozen=True)
class Decision:
    """From `effective_step` on, `change` of a track, or another action; made once, for a stage with `taken` changes behind.

    `refuse`: a command by hand that the plan has nothing for. `n_rollbacks`: before it; those after it make it void.
    """

    action: Action
    taken: Taken
    check_step: int
    effective_step: int
    trigger: Trigger
    track: int = 0
    change: Change | None = None
    slope: float | None = None
    slope_se: float | None = None
    threshold: float | None = None
    reason: str = ""
    command_id: int | None = None
    n_rollbacks: int = 0

    def stands(self, taken: Taken, n_rollbacks: int) -> bool:
        """Whether nothing has overtaken it, with these changes and rollbacks behind: instability is the weights', whatever their stage."""
        return self.n_rollbacks == n_rollbacks and (self.taken == taken or self.trigger == "guard")

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Decision":
        """The inverse of dataclasses.asdict, through JSON."""
        return Decision(**{**tree, "taken": tuple(tree["taken"]), "change": Change(**tree["change"]) if tree["change"] else None})


@dataclasses.dataclass(frozen=True)
class Check:
    """What one check saw and said; `reason` is why it did not fire, or the trigger. `trouble_begins`: the first unstable one of a row.

    `change`, `threshold`: of the change that fired, or else of the one nearest to firing.
    """

    step: int
    tokens_seen: float
    stage: int
    change: str | None
    slope: float | None
    slope_se: float | None
    slope_bound: float | None
    threshold: float | None
    in_a_row: int
    fired: bool
    reason: str
    trouble_begins: bool = False
