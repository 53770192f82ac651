"""Where the made run stands at a step."""

from typing import Any

from raystage.config.duration import Duration
from raystage.tracking.goal import Goal
from raystage.tracking.progress import Progress, advance, decided
from tests.made_run import made_records

METRICS, DECISIONS = made_records()
BUDGET = Duration(2e6, "tokens")
GOAL = Goal(BUDGET, n_stages=5, looks=2)


def progress_at(step: int, **of_train: Any) -> Progress:
    """`of_train`: fields that the training records have instead."""
    progress = Progress()
    for record in METRICS:
        if record["step"] <= step:
            progress = advance(progress, record | of_train if record["kind"] == "train" else record)
    for decision in DECISIONS:
        if decision["effective_step"] <= step:
            progress = decided(progress, decision)
    return progress
