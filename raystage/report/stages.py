"""The stages of a run, each with what it cost, what it reached and what ended it."""

import dataclasses
from collections.abc import Sequence
from itertools import groupby

from raystage.tracking.decision_text import is_change
from raystage.tracking.records import Record, RunRecords

LAST_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Span:
    """What was spent: tokens, FLOPs, seconds."""

    tokens: float
    flops: float
    time_s: float


@dataclasses.dataclass(frozen=True)
class Stage:
    """Losses are of training; `last_loss` is the mean of the last 10 steps. None where not known or not finite."""

    number: int
    seq_len_tokens: int
    n_layer: int
    d_model: int
    n_parameters: int
    spent: Span
    first_step: int
    last_step: int
    first_loss: float | None
    last_loss: float | None
    val_loss: float | None
    ended_by: Record | None

    @property
    def shape(self) -> str:
        return f"len {self.seq_len_tokens} · {self.n_layer} {'layer' if self.n_layer == 1 else 'layers'} x {self.d_model}"


def stages_of(records: RunRecords) -> list[Stage]:
    """The stages in the order they were trained; a rollback makes a stage appear twice."""
    groups = [list(group) for _, group in groupby(records.train, key=_shape)]
    before = [_base(records.train), *(_spent(group[-1]) for group in groups[:-1])]
    after = [*(group[0]["step"] for group in groups[1:]), None]
    return [
        _stage(number, group, start, next_step, records)
        for number, (group, start, next_step) in enumerate(zip(groups, before, after, strict=True), 1)
    ]


def total(stages: Sequence[Stage]) -> Span:
    """What all of them spent."""
    return Span(sum(s.spent.tokens for s in stages), sum(s.spent.flops for s in stages), sum(s.spent.time_s for s in stages))


def _shape(record: Record) -> tuple[int, ...]:
    return record["stage"], record["seq_len_tokens"], record["n_layer"], record["d_model"]


def _spent(record: Record) -> Span:
    return Span(record["tokens_seen"], record["flops"], record["time_s"])


def _base(train: Sequence[Record]) -> Span:
    """Tokens and FLOPs before the first step: not zero in a run that began from another's state."""
    if len(train) < 2 or train[0]["stage"] != train[1]["stage"]:
        return Span(0, 0, 0)
    first, second = _spent(train[0]), _spent(train[1])
    return Span(max(0, 2 * first.tokens - second.tokens), max(0, 2 * first.flops - second.flops), 0)


def _stage(number: int, group: Sequence[Record], start: Span, next_step: int | None, records: RunRecords) -> Stage:
    first, last, end = group[0], group[-1], _spent(group[-1])
    finite = [record["loss"] for record in group if record["loss"] is not None]
    tail = finite[-LAST_STEPS:]
    return Stage(
        number=number,
        seq_len_tokens=last["seq_len_tokens"],
        n_layer=last["n_layer"],
        d_model=last["d_model"],
        n_parameters=last["n_parameters"],
        spent=Span(end.tokens - start.tokens, end.flops - start.flops, end.time_s - start.time_s),
        first_step=first["step"],
        last_step=last["step"],
        first_loss=finite[0] if finite else None,
        last_loss=sum(tail) / len(tail) if tail else None,
        val_loss=_val_loss(records.val, first, last),
        ended_by=None if next_step is None else _end(records.decisions, first["step"], next_step),
    )


def _val_loss(val: Sequence[Record], first: Record, last: Record) -> float | None:
    inside = [r for r in val if r["stage"] == first["stage"] and first["step"] <= r["step"] <= last["step"]]
    ends = [r for r in inside if r["stage_end"]] or inside
    return ends[-1]["val_loss"] if ends else None


def _end(decisions: Sequence[Record], first_step: int, next_step: int) -> Record | None:
    inside = [d for d in decisions if d["outcome"] == "applied" and first_step < d["effective_step"] <= next_step]
    changes = [d for d in inside if is_change(d) or d["kind"] == "rollback"]
    return changes[-1] if changes else None
