"""What rank 0 tells the others at a boundary, as one fixed-size vector of integers."""

import dataclasses

from raystage.devices.ranks import Ranks
from raystage.pacing.controller import Decision
from raystage.pacing.stage import Change, ChangeKind

_KINDS: tuple[ChangeKind, ...] = ("length", "depth", "width")
_SAVE, _STOP = 1, 2


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
    head = (
        [decision.decision_id, _KINDS.index(decision.change.kind), decision.change.to, decision.effective_step]
        if decision
        else [0, 0, 0, 0]
    )
    flags = _SAVE * orders.save + _STOP * orders.stop
    decision_id, kind, to, effective_step, flags, elapsed_ms = ranks.from_first([*head, flags, round(orders.elapsed_s * 1000)])
    if not ranks.is_first:
        change = Change(_KINDS[kind], to)
        decision = Decision(decision_id, change, 0, effective_step, "slope", None, None) if decision_id else None
    return Orders(decision, bool(flags & _SAVE), bool(flags & _STOP), elapsed_ms / 1000)
