"""What rank 0 tells the others at a boundary, as one fixed-size vector of integers."""

import dataclasses

from raystage.devices.ranks import Ranks
from raystage.pacing.point import Action, Decision, Trigger
from raystage.pacing.stage import Plan, Taken
from raystage.training.ports import Ending

_SAVE = 1
_ENDINGS: tuple[Ending | None, ...] = (None, "stopped", "left")
_ACTIONS: tuple[Action, ...] = ("change", "hold", "resume", "rollback", "stop", "refuse")
_TRIGGERS: tuple[Trigger, ...] = ("slope", "max_dwell", "schedule", "guard", "manual")


@dataclasses.dataclass(frozen=True)
class Orders:
    """`decision`: takes effect with the next step; `save`, `ending`: at this boundary; `elapsed_s`: rank 0's clock."""

    decision: Decision | None
    save: bool
    ending: Ending | None
    elapsed_s: float


def share_orders(ranks: Ranks, orders: Orders, plan: Plan, taken: Taken, n_rollbacks: int = 0) -> Orders:
    """Rank 0's orders on every rank; those of the others are ignored. Slope and reason stay on rank 0.

    `plan`, `taken`, `n_rollbacks`: what the decision is about, the same on every rank, so that a track's number is enough.
    """
    decision = orders.decision
    head = [-1, 0, 0, 0, 0]
    if decision:
        head = [
            _ACTIONS.index(decision.action),
            _TRIGGERS.index(decision.trigger),
            decision.track,
            decision.check_step,
            decision.effective_step,
        ]
    flags = _SAVE * orders.save + 2 * _ENDINGS.index(orders.ending)
    action, trigger, track, check_step, effective_step, flags, elapsed_ms = ranks.from_first([*head, flags, round(orders.elapsed_s * 1000)])
    if not ranks.is_first and action >= 0:
        name = _ACTIONS[action]
        change = plan.tracks[track][taken[track]] if name == "change" else None
        decision = Decision(name, taken, check_step, effective_step, _TRIGGERS[trigger], track, change, n_rollbacks=n_rollbacks)
    return Orders(decision if action >= 0 else None, bool(flags & _SAVE), _ENDINGS[flags // 2], elapsed_ms / 1000)


def share_ending(ranks: Ranks, ending: Ending | None) -> Ending | None:
    """Rank 0's word between two boundaries, on every rank."""
    return _ENDINGS[ranks.from_first([_ENDINGS.index(ending)])[0]]
