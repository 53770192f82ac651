"""The loss in pieces under DDP and FSDP2: the losses of one rank that takes its logits whole."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raystage.devices.ranks import Ranks
from raystage.models import head_loss
from raystage.runtime.assignment import Assignment
from raystage.tracking.records import RunRecords
from tests.gang import Gang, gang_of
from tests.training.gang_run import assert_same_run, train_rank
from tests.training.made_run import assign, configure, train_here

# a length raise, a layer and more channels; on two ranks two micro-batches each of 64 rows, in pieces of as many rows as channels
PLAN = ["training.duration=24 steps", "training.micro_batch_tokens=64", "pacing.at=[0.25, 0.5, 0.75]"]
ROWS = [16] * 4 * 2 * 18 + [32] * 2 * 2 * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces")


@pytest.fixture(scope="module")
def two(folder: Path) -> Iterator[Gang]:
    with gang_of(2, folder) as gang:
        yield gang


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_in_pieces_have_the_losses_of_one_with_whole_logits(folder: Path, two: Gang, strategy: str) -> None:
    assignment = assign(configure(folder, [f"name={strategy}", *PLAN, f"training.strategy={strategy}"]))
    assert two(_train_in_pieces, assignment) == [ROWS, ROWS]
    records = RunRecords.load(assignment.run_dir)
    assert [d["kind"] for d in records.decisions] == ["raise_seq_len", "grow_depth", "grow_width"]
    assert_same_run(records, train_here(configure(folder, [f"name=whole-{strategy}", *PLAN])))


def test_compiled_too(folder: Path, two: Gang) -> None:
    """A length raise; a growth would be two codes more, at ten seconds each."""
    plan = [*PLAN[:2], "pacing.depths=null", "pacing.widths=null", "pacing.at=[0.5]", "model.n_layer=1", "model.d_model=16"]
    assignment = assign(configure(folder, ["name=compiled", *plan, "training.compile=true"]))
    assert two(_train_in_pieces, assignment) == [[16] * 4 * 2 * 24] * 2
    records = RunRecords.load(assignment.run_dir)
    assert_same_run(records, train_here(configure(folder, ["name=whole-compiled", *plan])))


def _train_in_pieces(ranks: Ranks, assignment: Assignment) -> list[int]:
    """Trains; the rows of each piece whose gradient was computed."""
    honest, rows = head_loss._piece, []

    def counting(hidden: Tensor, *others: Any) -> Tensor:
        rows.append(len(hidden))
        return honest(hidden, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_loss, "_LOGITS_AT_ONCE", 0)
        patch.setattr(head_loss, "_WEIGHTS_AT_ONCE", 1)
        patch.setattr(head_loss, "_piece", counting)
        # a backend that needs no C++ compiler
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        train_rank(ranks, assignment)
    return rows
