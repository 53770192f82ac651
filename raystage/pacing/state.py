"""All that the controller remembers between points."""

import dataclasses
from typing import Any

from raystage.pacing.curve import Bin
from raystage.pacing.guard import GuardState
from raystage.pacing.interval import Interval
from raystage.pacing.point import Decision, Point
from raystage.pacing.stage import Taken

_EMPTY, _UNJUDGED = Interval(), GuardState()


@dataclasses.dataclass(frozen=True)
class State:
    """Bounded in size, and plain JSON through `to_json`.

    `watermark`: the last step seen; `taken`: the stage's changes behind, by track; `looked_at_tokens`: of the stage, at the last look at
    the slope; `in_a_row`: looks that agreed, by track (the last entry: to stop); `early`: points beyond a gap, which wait for it to close.
    """

    taken: Taken
    n_rollbacks: int = 0
    watermark: int = 0
    tokens_seen: float = 0.0
    progress: float = 0.0
    tokens_per_parameter: float | None = None
    stage_start_tokens: float = 0.0
    looked_at_tokens: float = 0.0
    bins: tuple[Bin, ...] = ()
    open: Interval = _EMPTY
    guard: GuardState = _UNJUDGED
    unstable: bool = False
    in_a_row: tuple[int, ...] = ()
    pending: Decision | None = None
    early: tuple[Point, ...] = ()

    @staticmethod
    def at(taken: Taken, step: int = 0, tokens_seen: float = 0.0, n_rollbacks: int = 0) -> "State":
        """The state at the begin of a stage, or after a rollback, `step` steps into the run."""
        return State(taken, n_rollbacks, step, tokens_seen, stage_start_tokens=tokens_seen, in_a_row=(0,) * (len(taken) + 1))

    def to_json(self) -> dict[str, Any]:
        tree = dataclasses.asdict(self)
        # JSON has no infinity, which an empty interval has
        return {**tree, "open": None if self.open == _EMPTY else tree["open"], "early": [point.to_json() for point in self.early]}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "State":
        pending, opened = tree["pending"], tree["open"]
        return State(
            **{
                **tree,
                "taken": tuple(tree["taken"]),
                "bins": tuple(Bin(**b) for b in tree["bins"]),
                "open": Interval(**opened) if opened else _EMPTY,
                "guard": GuardState(**tree["guard"]),
                "in_a_row": tuple(tree["in_a_row"]),
                "pending": Decision.from_json(pending) if pending else None,
                "early": tuple(Point.from_json(p) for p in tree["early"]),
            }
        )
