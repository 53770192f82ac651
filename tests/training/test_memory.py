"""The memory of a step, predicted without it, against what torch's allocator hands out when the step runs."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from raystage.config import Config
from raystage.data.batch import Batch
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.checkpointing import checkpoint_blocks
from raystage.models.spec import ModelSpec
from raystage.training.machinery import Machinery
from raystage.training.memory import peak_bytes
from raystage.training.micro_batch import clip_and_update, forward_backward
from raystage.training.state import assemble
from raystage.training.step import sync_on
from tests.gang import gang_of
from tests.training.made_run import configure

ALONE = Ranks()
SMALL = ModelSpec(
    family="gpt2", vocab_size=1000, context_length=128, n_layer=3, d_model=64, n_head=4, n_kv_head=4, head_dim=16, d_ff=256,
    tied=True, rope_theta=None, dropout=0.0, eot_id=0,
)  # fmt: skip
LLAMA = dataclasses.replace(SMALL, family="llama", n_kv_head=2, tied=False, rope_theta=1e4, d_ff=192)
STAGES = {
    "first, short": (dataclasses.replace(SMALL, n_layer=1, d_model=32, n_head=2, n_kv_head=2, d_ff=128), 32, []),
    "long": (SMALL, 128, []),
    "head in pieces": (dataclasses.replace(SMALL, vocab_size=30000), 128, []),
    "bf16": (SMALL, 128, ["training.precision=bf16"]),
    "dropout": (dataclasses.replace(SMALL, dropout=0.1), 64, ["model.dropout=0.1"]),
    "documents apart": (SMALL, 64, ["data.attend_across_documents=false"]),
    "llama, grouped queries": (LLAMA, 128, []),
    "adafactor": (SMALL, 64, ["training.optimizer.kind=adafactor"]),
    "no clipping": (SMALL, 64, ["training.optimizer.clip_norm=null"]),
    "clipping to weights": (SMALL, 64, ["training.optimizer.clip_ratio=0.01"]),
}


@pytest.mark.parametrize("n_checkpointed", [1, 2, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_peak_with_blocks_checkpointed_is_foretold(n_checkpointed: int, dropout: float, tmp_path: Path) -> None:
    spec = dataclasses.replace(SMALL, dropout=dropout)
    config = configure(tmp_path, [f"model.dropout={dropout}"])
    plain, predicted = (peak_bytes(config, spec, 128, 1024, False, 1, n) for n in (0, n_checkpointed))
    assert predicted < plain
    assert predicted == pytest.approx(measured(config, spec, 128, 1024, False, n_checkpointed=n_checkpointed), rel=0.02)


@pytest.mark.parametrize("accumulates", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_the_peak_of_a_step_is_foretold(stage: str, accumulates: bool, tmp_path: Path) -> None:
    spec, length, overrides = STAGES[stage]
    config = configure(tmp_path, overrides)
    predicted = peak_bytes(config, spec, length, 1024, accumulates, world_size=1)
    assert predicted == pytest.approx(measured(config, spec, length, 1024, accumulates), rel=0.02)


def test_gradients_that_are_exchanged_have_their_buckets_too(tmp_path: Path) -> None:
    config = configure(tmp_path)
    with gang_of(2, tmp_path) as two:
        for accumulates, tokens in ((False, 16), (True, 16), (False, 1024), (True, 1024)):  # few: gradients are the most of it
            predicted = peak_bytes(config, SMALL, 16, tokens, accumulates, world_size=2)
            assert two(_measured_on_rank, config, tokens, accumulates) == [pytest.approx(predicted, rel=0.02)] * 2


def _measured_on_rank(ranks: Ranks, config: Config, tokens: int, accumulates: bool) -> int:
    return measured(config, SMALL, 16, tokens, accumulates, ranks)


def test_compiled_runs_are_counted_as_plain_ones(tmp_path: Path) -> None:
    plain, compiled = configure(tmp_path), configure(tmp_path, ["training.compile=true"])
    assert peak_bytes(compiled, SMALL, 64, 256, False, 1) == peak_bytes(plain, SMALL, 64, 256, False, 1)


def test_one_worker_shards_nothing(tmp_path: Path) -> None:
    plain, sharded = configure(tmp_path), configure(tmp_path, ["training.strategy=fsdp"])
    assert peak_bytes(sharded, SMALL, 64, 256, False, 1) == peak_bytes(plain, SMALL, 64, 256, False, 1)


def measured(
    config: Config, spec: ModelSpec, length: int, tokens: int, accumulates: bool, ranks: Ranks = ALONE, n_checkpointed: int = 0
) -> int:
    machinery = assemble(spec, config, pick_device("cpu"), ranks)
    checkpoint_blocks(machinery.model, spec, n_checkpointed)
    for _ in range(ranks.world_size):  # DDP makes its buckets anew after the first step
        _step(machinery, config, length, tokens, accumulates)
    is_sharded = isinstance(machinery.trainee, FSDPModule)
    n_lasting = 2 if ranks.world_size > 1 and not is_sharded else 1  # as large as the parameters: the buckets
    held = sum(part_of(p).nbytes for p in machinery.model.parameters()) * n_lasting
    held += sum(part_of(t).nbytes for state in machinery.optimizer.state.values() for t in state.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        _step(machinery, config, length, tokens, accumulates)
    most = now = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return held + most


def part_of(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _step(machinery: Machinery, config: Config, length: int, tokens: int, accumulates: bool) -> None:
    eot_id = None if config.data.attend_across_documents else machinery.spec.eot_id
    for last in [False, True] if accumulates else [True]:
        batch = Batch(*torch.randint(machinery.spec.vocab_size, (2, tokens // length, length)))
        with sync_on(machinery, last, config.training):
            forward_backward(machinery, batch, 1.0, pick_device("cpu"), config.training, eot_id)
    clip_and_update(machinery, config.training.optimizer)
    machinery.optimizer.zero_grad(set_to_none=True)
