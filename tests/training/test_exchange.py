"""How gradients and shards travel between ranks: how often, how precisely, and in how much memory."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from raystage.config import Config
from raystage.config.schema import Optimizer
from raystage.data.batch import Batch
from raystage.data.step_cut import rank_slice
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.growth.sharded import full
from raystage.models.spec import ModelSpec
from raystage.training import sharding, step
from raystage.training.machinery import Machinery
from raystage.training.state import assemble
from raystage.training.step import train_step
from tests.gang import Gang, gang_of
from tests.training.made_run import configure

SPEC = ModelSpec(
    family="gpt2", vocab_size=300, context_length=32, n_layer=2, d_model=32, n_head=4, n_kv_head=4, head_dim=8, d_ff=128,
    tied=True, rope_theta=None, dropout=0.0, eot_id=0,
)  # fmt: skip
BLOCKS = [f"model.transformer.h.{i}" for i in range(SPEC.n_layer)]
N_SEQUENCES, LENGTH = 32, 32


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    with gang_of(2, tmp_path_factory.mktemp("exchange")) as gang:
        yield gang


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_gradients_that_travel_in_bf16_are_rounded_to_it_and_add_up_in_float32(tmp_path: Path, two: Gang, strategy: str) -> None:
    """In 16 micro-batches on each of two ranks; a sum in bf16 would be four times as far off."""
    exact = _gradients(Ranks(), configure(tmp_path))
    settings = [f"training.strategy={strategy}", "training.micro_batch_tokens=32"]
    in_full, other = two(_gradients, configure(tmp_path, settings))
    assert torch.equal(in_full, other)
    assert _error(in_full, exact) < 1e-6
    rounded, _ = two(_gradients, configure(tmp_path, [*settings, "training.reduce_precision=bf16"]))
    assert 1e-4 < _error(rounded, exact) < 2**-8


@pytest.mark.parametrize(("bucket_mib", "n_travel"), [("null", 1), (0.05, 2)])
def test_gradients_travel_in_buckets(tmp_path: Path, two: Gang, bucket_mib: str | float, n_travel: int) -> None:
    for names in two(_profiled_step, configure(tmp_path, [f"training.bucket_mib={bucket_mib}"]), False):
        assert sum("allreduce" in name for name in names) == n_travel, names


@pytest.mark.parametrize("is_large", [False, True])
def test_shards_are_gathered_once_a_step_or_where_the_model_is_large_for_each_pass(tmp_path: Path, two: Gang, is_large: bool) -> None:
    config = configure(tmp_path, ["training.strategy=fsdp", "training.micro_batch_tokens=256"])
    for names in two(_profiled_step, config, is_large):
        # two micro-batches; the root's parameters stay whole from forward to backward in any case
        assert _counts(names, "FSDP::all_gather") == ([2, 4, 4] if is_large else [1, 1, 1])
        assert _counts(names, "FSDP::post_backward_reduce") == ([2, 2, 2] if is_large else [1, 1, 1])


def test_the_next_block_is_asked_for_before_a_block_computes(tmp_path: Path, two: Gang) -> None:
    config = configure(tmp_path, ["training.strategy=fsdp"])
    for names in two(_profiled_step, config, True):
        asked = names.index(f"FSDP::forward_prefetch for {BLOCKS[1]}")
        assert names.index(f"FSDP::pre_forward ({BLOCKS[0]})") < asked < names.index(f"FSDP::post_forward ({BLOCKS[0]})")


def _counts(names: list[str], what: str) -> list[int]:
    """How often the root and each block did it."""
    found = Counter(names)
    return [found[what], *(found[f"{what} ({block})"] for block in BLOCKS)]


def _gradients(ranks: Ranks, config: Config) -> Tensor:
    """Of one step, of all parameters, as the update gets them."""
    found: list[Tensor] = []

    def keep(machinery: Machinery, settings: Optimizer) -> Tensor:
        found.extend(full(p.grad).flatten() for p in machinery.model.parameters() if p.grad is not None)
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "clip_and_update", keep)
        _step(assemble(SPEC, config, pick_device("cpu"), ranks), ranks, config)
    return torch.cat(found)


def _error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def _profiled_step(ranks: Ranks, config: Config, is_large: bool) -> list[str]:
    """The names of what a second step does, in order of its beginning."""
    with pytest.MonkeyPatch.context() as patch:
        if is_large:
            patch.setattr(sharding, "_WHOLE_BYTES", 0)
        machinery = assemble(SPEC, config, pick_device("cpu"), ranks)
        _step(machinery, ranks, config)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            _step(machinery, ranks, config)
    events: Any = profiled.profiler
    return [event.name() for event in sorted(events.kineto_results.events(), key=lambda event: event.start_ns())]


def _step(machinery: Machinery, ranks: Ranks, config: Config) -> None:
    tokens = torch.randint(SPEC.vocab_size, (2, N_SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(0))
    mine = rank_slice(N_SEQUENCES, ranks.rank, ranks.world_size)
    batch = Batch(tokens[0, mine], tokens[1, mine])
    train_step(machinery, batch, N_SEQUENCES * LENGTH, ranks, pick_device("cpu"), config.training, None, N_SEQUENCES)
