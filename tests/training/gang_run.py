"""Runs on the ranks of a gang, and whether two runs are the same one."""

import math

import pytest

from raystage.config import Config
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.assignment import Assignment
from raystage.runtime.worker import run_rank
from raystage.tracking.records import RunRecords
from raystage.training.ports import Ending
from tests.gang import Gang
from tests.training.made_run import assign


def train(gang: Gang | None, config: Config, stop_after: int | None = None) -> RunRecords:
    """Trains on the gang's ranks, or on one in this process; stopped at a boundary after so many."""
    assignment = assign(config)
    if gang is None:
        train_rank(Ranks(), assignment, stop_after)
    else:
        gang(train_rank, assignment, stop_after)
    return RunRecords.load(assignment.run_dir)


def train_rank(ranks: Ranks, assignment: Assignment, stop_after: int | None = None) -> Ending:
    stop_step = math.inf if stop_after is None else stop_after * assignment.config.pacing.check_every_steps
    return run_rank(assignment, pick_device("cpu"), ranks, threads=1, asked=lambda step, position: "stop" if step >= stop_step else None)


def assert_same_run(ours: RunRecords, other: RunRecords, rel: float = 1e-5) -> None:
    assert [r["step"] for r in ours.train] == [r["step"] for r in other.train]
    for key in ("loss", "grad_norm", "second_moment", "probe_loss"):
        for mine, theirs in zip(ours.train, other.train, strict=True):
            wide = rel if key in ("loss", "probe_loss") else 100 * rel
            assert mine[key] == (None if theirs[key] is None else pytest.approx(theirs[key], rel=wide)), (key, mine["step"])
    assert [v["val_loss"] for v in ours.val] == pytest.approx([v["val_loss"] for v in other.val], rel=rel)
    assert [(d["kind"], d["outcome"]) for d in ours.decisions] == [(d["kind"], d["outcome"]) for d in other.decisions]
