"""What rank 0 tells the others at a boundary, as one fixed-size vector of integers."""

import dataclasses

from raystage.devices.ranks import Ranks
from raystage.pacing.controller import Decision
from raystage.pacing.stage import Change

_SAVE, _STOP = 1, 2
_STAYS = -1


@dataclasses.dataclass(frozen=True)
class Orders:
    """`decision`: takes effect with the next step; `save`, `stop`: at this boundary; `elapsed_s`: rank 0's clock."""

    decision: Decision | None
    save: bool
    stop: bool
    elapsed_s: float


def share_orders(ranks: Ranks, orders: Orders) -> Orders:
    """Rank 0's orders on every rank; those of the others are ignored. Slope and trigger stay on rank 0."""
    decision = orders.decision
    head = [decision.decision_id, decision.effective_step, *_of_change(decision.change)] if decision else [0, 0, _STAYS, _STAYS, _STAYS]
    flags = _SAVE * orders.save + _STOP * orders.stop
    *head, flags, elapsed_ms = ranks.from_first([*head, flags, round(orders.elapsed_s * 1000)])
    if not ranks.is_first:
        decision_id, effective_step, *values = head
        change = Change(*(None if value == _STAYS else value for value in values))
        decision = Decision(decision_id, change, 0, effective_step, "slope", None, None) if decision_id else None
    return Orders(decision, bool(flags & _SAVE), bool(flags & _STOP), elapsed_ms / 1000)


def _of_change(change: Change) -> list[int]:
    return [_STAYS if value is None else value for value in dataclasses.astuple(change)]
