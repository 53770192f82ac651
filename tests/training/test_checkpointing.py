"""Activation checkpointing changes no loss: through dropout, growth, DDP, FSDP2 and compiled code."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from raystage.devices.ranks import Ranks
from raystage.models import checkpointing
from raystage.runtime.assignment import Assignment
from raystage.tracking.records import RunRecords
from tests.gang import Gang, gang_of
from tests.training.gang_run import assert_same_run, train_rank
from tests.training.made_run import assign, configure, losses, train_here

PLAN = ["training.duration=24 steps", "pacing.at=[0.2, 0.5, 0.75]", "model.dropout=0.1"]
FULL = "training.activation_checkpointing=full"
LLAMA = ["model.family=llama", "model.n_kv_head=2"]
# 24 steps of two micro-batches; one block up to the growth in depth, two from step 12 on
N_BLOCKS = 2 * (12 * 1 + 12 * 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpointing")


@pytest.fixture(scope="module")
def two(folder: Path) -> Iterator[Gang]:
    with gang_of(2, folder) as gang:
        yield gang


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_dropout_and_growth_are_the_same_bit_by_bit(folder: Path, family: str) -> None:
    plan = [*PLAN, *(LLAMA if family == "llama" else [])]
    plain, ours = (configure(folder, [f"name={family}-{kind}", *plan, *keys]) for kind, keys in (("plain", []), ("full", [FULL])))
    n_calls = _train_counting(Ranks(), assign(ours))
    assert n_calls == N_BLOCKS
    records = RunRecords.load(assign(ours).run_dir)
    assert [d["outcome"] for d in records.decisions] == ["applied"] * 3
    assert losses(records) == losses(train_here(plain))


def test_as_few_blocks_as_memory_asks_for_are_the_same_too(folder: Path) -> None:
    """With room for the first size as it is."""
    memory = ["training.activation_checkpointing=auto", "runtime.memory_gib=0.0018"]
    assignment = assign(configure(folder, ["name=auto", *PLAN, *memory]))
    n_calls = _train_counting(Ranks(), assignment)
    assert 0 < n_calls < N_BLOCKS
    assert losses(RunRecords.load(assignment.run_dir)) == losses(train_here(configure(folder, ["name=auto-plain", *PLAN])))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_among_two_ranks_bit_by_bit(folder: Path, two: Gang, strategy: str) -> None:
    names = {"plain": [], "full": [FULL]}
    found = {}
    for kind, keys in names.items():
        settings = [f"name={strategy}-{kind}", *PLAN, "training.micro_batch_tokens=64", f"training.strategy={strategy}", *keys]
        assignment = assign(configure(folder, settings))
        assert two(_train_counting, assignment) == [N_BLOCKS if keys else 0] * 2
        found[kind] = losses(RunRecords.load(assignment.run_dir))
    assert found["full"] == found["plain"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compiled_among_two_ranks(folder: Path, two: Gang, strategy: str) -> None:
    plan = [
        "training.duration=8 steps",
        "pacing.depths=null",
        "pacing.widths=null",
        "pacing.at=[0.5]",
        "model.d_model=16",
        "model.n_layer=1",
    ]
    keys = [FULL, "training.compile=true", f"training.strategy={strategy}"]
    assignment = assign(configure(folder, [f"name=compiled-{strategy}", *plan, *keys]))
    n_graphs = two(_train_compiled, assignment)
    assert n_graphs[0] == n_graphs[1] > 0
    assert_same_run(RunRecords.load(assignment.run_dir), train_here(configure(folder, [f"name=compiled-plain-{strategy}", *plan])))


def _train_counting(ranks: Ranks, assignment: Assignment) -> int:
    """Trains; how often a block was told to keep its input alone."""
    honest, calls = checkpointing.checkpoint, []

    def counting(function: Any, *inputs: Any, **options: Any) -> Any:
        calls.append(1)
        return honest(function, *inputs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "checkpoint", counting)
        train_rank(ranks, assignment)
    return len(calls)


def _train_compiled(ranks: Ranks, assignment: Assignment) -> int:
    """Trains; how many graphs were compiled."""
    counter = CompileCounterWithBackend("aot_eager")  # which needs no C++ compiler
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
        train_rank(ranks, assignment)
    return counter.frame_count
