"""The stages of a run, each with what it cost, what it reached and what ended it."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from raystage.report.cited import Cited, at, derived
from raystage.report.columns import Columns
from raystage.report.run import Run
from raystage.tracking.decision_text import is_change
from raystage.tracking.records import Record

LAST_STEPS = 10
CLOCKS = ("tokens_seen", "flops", "time_s")


@dataclasses.dataclass(frozen=True)
class Stage:
    """`begin`, `end`, `spent`: by clock. `first`, `last`: positions among the training records. Losses are of training, the last a mean."""

    number: int
    record: Record
    first: int
    last: int
    first_step: int
    last_step: int
    begin: dict[str, float]
    end: dict[str, float]
    spent: dict[str, Cited]
    first_loss: Cited
    last_loss: Cited
    val_loss: Cited | None
    ended_by: Record | None

    @property
    def n_parameters(self) -> Cited:
        return Cited(self.record["n_parameters"], "train", "n_parameters", (self.last_step,))

    @property
    def numbers(self) -> dict[str, Cited]:
        """Every number of its row, by name."""
        losses = {"first_loss": self.first_loss, "last_loss": self.last_loss} | ({"val_loss": self.val_loss} if self.val_loss else {})
        return {"n_parameters": self.n_parameters, **self.spent, **losses}

    @property
    def shape(self) -> str:
        n_layer = self.record["n_layer"]
        return f"len {self.record['seq_len_tokens']} · {n_layer} {'layer' if n_layer == 1 else 'layers'} x {self.record['d_model']}"


def stages_of(run: Run) -> list[Stage]:
    """The stages in the order they were trained; a rollback makes a stage appear twice."""
    train = run.train
    borders = [0, *(np.flatnonzero(np.diff(train["stage"])) + 1).tolist(), len(train)]
    records = run.metrics.train_records([after - 1 for after in borders[1:]])
    return [_stage(number, record, span, run) for number, (record, span) in enumerate(zip(records, pairwise(borders), strict=True), 1)]


def base_of(train: Columns, starts: Columns) -> dict[str, float]:
    """What the run began with: not zero where it went on from another's state. Its first start says so.

    Records of before starts held clocks: by the first two steps, as if they had been alike.
    """
    if len(starts) and all(np.isfinite(starts[clock][0]) for clock in CLOCKS):
        return {clock: float(starts[clock][0]) for clock in CLOCKS}
    if len(train) < 2 or train["stage"][0] != train["stage"][1]:
        return dict.fromkeys(CLOCKS, 0.0)
    return {key: max(0.0, float(2 * train[key][0] - train[key][1])) for key in ("tokens_seen", "flops")} | {"time_s": 0.0}


def total(stages: Sequence[Stage], clock: str) -> Cited:
    """What all of them spent."""
    last = stages[-1].spent[clock]
    value = sum(stage.spent[clock].value or 0.0 for stage in stages)
    return Cited(value, last.kind, clock, last.steps[-1:], "less what the run began with")


def _stage(number: int, record: Record, span: tuple[int, int], run: Run) -> Stage:
    train, (first, after) = run.train, span
    first_step, last_step = train.step(first), train.step(after - 1)
    next_step = train.step(after) if after < len(train) else None
    finite = first + np.flatnonzero(np.isfinite(train["loss"][first:after]))
    tail = finite[-LAST_STEPS:]
    lasts = [at(train, int(i), "loss") for i in tail]
    return Stage(
        number=number,
        record=record,
        first=first,
        last=after - 1,
        first_step=first_step,
        last_step=last_step,
        begin={clock: float(train[clock][first]) for clock in CLOCKS},
        end={clock: float(train[clock][after - 1]) for clock in CLOCKS},
        spent={clock: _spent(run, clock, first, after - 1) for clock in CLOCKS},
        first_loss=at(train, int(finite[0]) if len(finite) else first, "loss"),
        last_loss=derived(float(np.mean(train["loss"][tail])), lasts, "loss", "mean") if lasts else at(train, after - 1, "loss"),
        val_loss=_val_loss(run.val, first_step, last_step, float(train["stage"][first])),
        ended_by=None if next_step is None else _end(run.decisions, first_step, next_step),
    )


def _spent(run: Run, clock: str, first: int, last: int) -> Cited:
    train = run.train
    if first == 0:
        value = float(train[clock][last]) - base_of(train, run.metrics.of["start"])[clock]
        return Cited(value, "train", clock, (train.step(last),), "less what the run began with")
    value = float(train[clock][last] - train[clock][first - 1])
    return Cited(value, "train", clock, (train.step(first - 1), train.step(last)), "difference")


def _val_loss(val: Columns, first_step: int, last_step: int, stage: float) -> Cited | None:
    inside = np.flatnonzero((val["stage"] == stage) & (first_step <= val["step"]) & (val["step"] <= last_step))
    ends = [i for i in inside if val["stage_end"][i] == 1] or list(inside)
    return at(val, int(ends[-1]), "val_loss") if ends else None


def _end(decisions: Sequence[Record], first_step: int, next_step: int) -> Record | None:
    inside = [d for d in decisions if d["outcome"] == "applied" and first_step < d["effective_step"] <= next_step]
    changes = [d for d in inside if is_change(d) or d["kind"] == "rollback"]
    return changes[-1] if changes else None
