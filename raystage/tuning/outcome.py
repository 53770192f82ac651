"""What a trial showed: its objective, its constraints, what it cost; read from its run's records alone."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from raystage.config import Config
from raystage.config.search import Constraints, Objective
from raystage.models.count import flops_per_token
from raystage.tracking.records import Record, RunRecords
from raystage.training.target_cost import target_spec

Status = Literal["done", "ended early", "failed"]
_CLOCKS = {"compute": "flops", "tokens": "tokens_seen", "seconds": "time_s"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`value`: the objective, smaller is better, None where it has none; `rejected`: the constraint that it broke, in words, or None.

    `flops`: spent, with a third of a training step's for each token of a validation.
    """

    status: Status
    value: float | None = None
    rejected: str | None = None
    val_perplexity_ratio: float = 1.0
    loss_ratio: float = 1.0
    flops: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0

    @property
    def is_good(self) -> bool:
        """Whether it may be chosen."""
        return self.status == "done" and self.rejected is None and self.value is not None

    def to_json(self) -> dict[str, Any]:
        # JSON has no infinity
        return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in vars(self).items()}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Outcome":
        ratios = {key: math.inf for key in ("val_perplexity_ratio", "loss_ratio") if tree[key] is None}
        return Outcome(**{**tree, **ratios})


def outcome_of(run_dir: Path, config: Config, objective: Objective, constraints: Constraints, status: Status) -> Outcome:
    """Of a run folder, which may hold nothing yet."""
    records = RunRecords.load(run_dir) if (run_dir / "metrics.jsonl").is_file() else None
    if records is None or not records.train:
        return Outcome("failed" if status == "done" else status)
    last = records.train[-1]
    limit = constraints.val_perplexity_ratio or math.inf
    ratios = perplexity_ratios(records.val) or [(1.0, 0)]
    # what came after the first that was too high depends on when the run was ended
    ratio, step = next((each for each in ratios if each[0] > limit), max(ratios))
    loss_ratio, loss_step = _worst_loss_ratio(records.train, config.pacing.check_every_steps)
    rejected = _too_high("validation perplexity", ratio, constraints.val_perplexity_ratio, step)
    rejected = rejected or _too_high("training loss", loss_ratio, constraints.loss_ratio, loss_step)
    rejected = rejected or _unstable(records)
    value = _value(records.val, objective)
    if status == "done" and value is None and rejected is None:
        rejected = f"validation loss {objective.loss} was not reached" if objective.kind == "time_to_loss" else "no validation"
    per_row = config.model.context_length * flops_per_token(target_spec(config), config.model.context_length) / 3
    return Outcome(
        status=status,
        value=value,
        rejected=rejected,
        val_perplexity_ratio=ratio,
        loss_ratio=loss_ratio,
        flops=last["flops"] + len(records.val) * config.validation.rows * per_row,
        tokens=last["tokens_seen"],
        seconds=last["time_s"],
        steps=last["step"],
    )


def _unstable(records: RunRecords) -> str | None:
    """What the guard, or a loss that was not finite, has ended or turned back."""
    acted = [decision for decision in records.decisions if decision["trigger"] == "guard" and decision["kind"] != "hold"]
    if acted:
        return f"the guard: {acted[0]['kind']} at step {acted[0]['effective_step']}"
    bad = next((record["step"] for record in records.train if record["loss"] is None), None)
    return None if bad is None else f"the loss was not finite at step {bad}"


def perplexity_ratios(val: Sequence[Record]) -> list[tuple[float, int]]:
    """Each validation's perplexity over the best one before it, with its step; infinite where the loss is not finite."""
    ratios, best = [], math.inf
    for record in val:
        loss = record["val_loss"]
        ratios.append((math.inf if loss is None else math.exp(min(700.0, max(0.0, loss - best))), record["step"]))
        best = min(best, math.inf if loss is None else loss)
    return ratios


def _worst_loss_ratio(train: Sequence[Record], every: int) -> tuple[float, int | None]:
    worst, worst_step, best = 1.0, None, math.inf
    for begin in range(0, len(train), every):
        part = [math.inf if record["loss"] is None else record["loss"] for record in train[begin : begin + every]]
        mean = sum(part) / len(part)
        if mean / best > worst:
            worst, worst_step = mean / best, train[begin]["step"]
        best = min(best, mean)
    return worst, worst_step


def _too_high(name: str, ratio: float, allowed: float | None, step: int | None) -> str | None:
    return f"{name} rose to {ratio:.2f} x its best so far at step {step} (allowed: {allowed:g})" if allowed and ratio > allowed else None


def _value(val: Sequence[Record], objective: Objective) -> float | None:
    if objective.kind == "val_loss":
        return val[-1]["val_loss"] if val else None
    assert objective.loss is not None
    clock = _CLOCKS[objective.per]
    return next((float(r[clock]) for r in val if r["val_loss"] is not None and r["val_loss"] <= objective.loss), None)
