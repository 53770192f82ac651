"""The record of a decision in decisions.jsonl: what, when, and why, in numbers."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from raystage.pacing.point import Decision
from raystage.pacing.stage import Shape
from raystage.training.counters import Counters
from raystage.training.transition import TransitionReport


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a decision took effect: the shapes before and after, the counters, the clock and the latest validation loss."""

    before: Shape
    after: Shape
    counters: Counters
    time_s: float
    val_loss: float | None


def record_of(decision: Decision, moment: Moment, decision_id: int, report: TransitionReport, **more: Any) -> dict[str, Any]:
    """`more`: fields of one kind of decision alone."""
    return {
        "decision_id": decision_id,
        "kind": _kind(decision),
        "from": dataclasses.asdict(moment.before),
        "to": dataclasses.asdict(moment.after),
        "check_step": decision.check_step,
        "effective_step": decision.effective_step,
        "tokens_seen": moment.counters.tokens_seen,
        "flops": moment.counters.flops,
        "time_s": moment.time_s,
        "trigger": decision.trigger,
        "reason": decision.reason,
        "slope": decision.slope,
        "slope_se": decision.slope_se,
        "threshold": decision.threshold,
        "command_id": decision.command_id,
        "val_loss": moment.val_loss,
        **dataclasses.asdict(report),
        **more,
    }


def is_made_stop(decision: Decision, records: Iterable[Mapping[str, Any]]) -> bool:
    """Whether it is a stop by slope among the `records`: unlike a change, nothing else tells one that was made from one still to come."""
    is_stop = (decision.action, decision.trigger) == ("stop", "slope")
    return is_stop and any((r["kind"], r["effective_step"]) == ("stop", decision.effective_step) for r in records)


def _kind(decision: Decision) -> str:
    if decision.change:
        return decision.change.record_kind
    return "hold" if decision.action == "refuse" else decision.action
