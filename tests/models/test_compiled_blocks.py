"""Compiled by block: one code for all blocks, depths and lengths of a width; buckets leave between blocks; what evaluates is as written."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from raystage.config import Config
from raystage.data.batch import document_mask
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.evaluation.language_model import evaluating
from raystage.models.checkpointing import checkpoint_blocks
from raystage.models.compiled_blocks import compile_blocks
from raystage.models.family import build_model
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from raystage.training.state import assemble
from tests.gang import gang_of
from tests.training.made_run import configure

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"tied": True, "rope_theta": None, "n_kv_head": 2},
    "llama": {"tied": False, "rope_theta": 10_000.0, "n_kv_head": 1},
    "qwen3": {"tied": False, "rope_theta": 10_000.0, "n_kv_head": 1},
}


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """torch.compile with a backend that needs no C++ compiler, and for which one piece of code that cannot be compiled is an error."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter, fullgraph=True))
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize("checkpointed", [0, 9])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_depths_and_lengths_share_one_code(family: str, checkpointed: int, codes: CompileCounterWithBackend) -> None:
    """As growth in depth and longer sequences meet it; two sequences at least, since one alone has a code of its own."""
    n_graphs = []
    for n_layer, length in ((1, 16), (1, 24), (3, 24), (3, 48)):  # at first as many tokens as channels, which is no rule
        trainee = _compiled(family, n_layer, checkpointed=checkpointed)
        for n_sequences in (2, 5):
            trainee(_tokens(n_sequences, length), _tokens(n_sequences, length)).backward()
            n_graphs.append(codes.frame_count)
    assert n_graphs == n_graphs[:1] * 8
    assert n_graphs[0] > 0


def test_documents_apart_have_one_too(codes: CompileCounterWithBackend) -> None:
    n_graphs = []
    for n_layer, length in ((1, 20), (3, 48)):
        tokens = _tokens(2, length)
        _compiled("llama", n_layer)(tokens, tokens, *document_mask(tokens, eot_id=0)).backward()
        n_graphs.append(codes.frame_count)
    assert n_graphs == n_graphs[:1] * 2
    assert n_graphs[0] > 0


def test_what_evaluates_is_not_compiled_and_training_goes_on_as_it_was(codes: CompileCounterWithBackend) -> None:
    trainee, tokens = _compiled("gpt2", 2), _tokens(3, 16)
    trainee(tokens, tokens).backward()
    n_graphs = codes.frame_count
    with evaluating(trainee):
        plain = trainee.losses(tokens, tokens).sum()
        generated = trainee.model.generate(tokens[:, :4], max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert generated.shape == (3, 8)
    torch.testing.assert_close(trainee(tokens, tokens).detach(), plain)
    assert codes.frame_count == n_graphs > 0


def test_buckets_leave_while_the_backward_pass_goes_on(tmp_path: Path) -> None:
    with gang_of(2, tmp_path) as two:
        found = two(_buckets_before_the_first_block, configure(tmp_path, ["training.compile=true"]))
    assert all(n_before >= 1 for n_before, _ in found), found
    (_, ours), (_, others) = found
    torch.testing.assert_close(ours, others)


def _buckets_before_the_first_block(ranks: Ranks, config: Config) -> tuple[int, Tensor]:
    """How many buckets had left when the backward pass came to the first block, in the second step: DDP makes its buckets anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
        machinery = assemble(_spec("gpt2", 4, d_model=128), config, pick_device("cpu"), ranks)
        model, wrapped = cast(Any, machinery.model), cast(Any, machinery.wrapped)
        left: list[int] = []
        border = _Border(left)
        model.transformer.h.insert(1, border)
        wrapped.register_comm_hook(left, _counting)
        tokens = _tokens(2, 32, seed=ranks.rank)
        for _ in range(2):
            left.clear()
            wrapped(tokens, tokens).backward()
    return border.seen[-1], model.transformer.wpe.weight.grad


class _Border(nn.Module):
    """Between two blocks: how many buckets had left when the backward pass came by."""

    def __init__(self, left: list[int]) -> None:
        super().__init__()
        self._left = left
        self.seen: list[int] = []

    def forward(self, hidden: Tensor, *others: Any, **settings: Any) -> Tensor:
        hidden.register_hook(lambda _: self.seen.append(len(self._left)))
        return hidden


def _counting(left: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    left.append(bucket.index())
    assert dist.group.WORLD is not None
    return allreduce_hook(dist.group.WORLD, bucket)


def _spec(family: str, n_layer: int, d_model: int = 16) -> ModelSpec:
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "context_length": 64,
        "n_layer": n_layer,
        "d_model": d_model,
        "n_head": 2,
        "head_dim": d_model // 2,
    }
    return ModelSpec(family=family, d_ff=4 * d_model, dropout=0.0, eot_id=0, **sizes, **FAMILIES[family])


def _compiled(family: str, n_layer: int, checkpointed: int = 0) -> Any:
    spec = _spec(family, n_layer)
    model = build_model(spec, seed=0)
    checkpoint_blocks(model, spec, checkpointed)
    compile_blocks(model, spec)
    return Trainee(model, spec).train()


def _tokens(n_sequences: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(64, (n_sequences, length), generator=torch.Generator().manual_seed(seed))
