"""Gradients clipped to their weights: the paper's formula, on one rank and on shards."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from raystage.config import Config
from raystage.data.batch import Batch
from raystage.data.step_cut import rank_slice
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.growth.sharded import full
from raystage.models.spec import ModelSpec
from raystage.training.adaptive_clip import clip_to_weights_
from raystage.training.machinery import Machinery
from raystage.training.micro_batch import clip_and_update, forward_backward
from raystage.training.state import assemble
from tests.gang import Gang, gang_of
from tests.training.made_run import configure

GPT2 = ModelSpec(
    family="gpt2", vocab_size=300, context_length=32, n_layer=2, d_model=32, n_head=4, n_kv_head=4, head_dim=8, d_ff=128,
    tied=True, rope_theta=None, dropout=0.0, eot_id=0,
)  # fmt: skip
LLAMA = dataclasses.replace(GPT2, family="llama", n_kv_head=2, tied=False, rope_theta=10000.0)
LIMIT = 0.03


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    with gang_of(2, tmp_path_factory.mktemp("clip")) as gang:
        yield gang


def equipped(ranks: Ranks, config: Config, spec: ModelSpec) -> Machinery:
    """A model with the gradients of one batch, which is cut over the ranks."""
    device = pick_device("cpu")
    machinery = assemble(spec, config, device, ranks)
    tokens_BL = torch.randint(spec.vocab_size, (16, 33), generator=torch.Generator().manual_seed(0))
    mine = tokens_BL[rank_slice(16, ranks.rank, ranks.world_size)]
    forward_backward(machinery, Batch(mine[:, :-1], mine[:, 1:]), ranks.world_size / (16 * 32), device, config.training, None)
    return machinery


def gradients(machinery: Machinery) -> dict[str, Tensor]:
    return {name: full(p.grad).clone() for name, p in machinery.model.named_parameters() if p.grad is not None}


def clipped(ranks: Ranks, config: Config, spec: ModelSpec) -> dict[str, Tensor]:
    machinery = equipped(ranks, config, spec)
    clip_to_weights_(machinery.trainee, LIMIT)
    return gradients(machinery)


def by_the_paper(machinery: Machinery) -> tuple[dict[str, Tensor], int]:
    """Unit by unit; and how many were scaled down."""
    transposed = {f"{name}.weight" for name, module in machinery.model.named_modules() if isinstance(module, Conv1D)}
    found, n_scaled = gradients(machinery), 0
    for name, p in machinery.model.named_parameters():
        if name in ("lm_head.weight", "transformer.wte.weight"):
            continue
        weight, grad = p.detach(), found[name]
        if name in transposed:
            weight, grad = weight.T, grad.T
        units = [(weight, grad)] if weight.dim() == 1 else list(zip(weight, grad, strict=True))
        for w, g in units:
            largest = LIMIT * max(float(w.norm()), 1e-3)
            if float(g.norm()) > largest:
                g *= largest / float(g.norm())
                n_scaled += 1
    return found, n_scaled


@pytest.mark.parametrize("spec", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_each_unit_is_clipped_to_its_weights(tmp_path: Path, spec: ModelSpec) -> None:
    config = configure(tmp_path)
    machinery = equipped(Ranks(), config, spec)
    expected, n_scaled = by_the_paper(machinery)
    assert n_scaled > 20
    found = clipped(Ranks(), config, spec)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-9, msg=name)
    untouched = gradients(machinery)
    assert any(torch.equal(found[name], untouched[name]) for name in found)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_clip_as_one_does(tmp_path: Path, two: Gang, strategy: str) -> None:
    alone = clipped(Ranks(), configure(tmp_path), GPT2)
    for found in two(clipped, configure(tmp_path, [f"training.strategy={strategy}"]), GPT2):
        for name, grad in alone.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-7, msg=name)


def test_the_norm_that_is_told_is_of_before_and_the_global_limit_comes_after(tmp_path: Path) -> None:
    config = configure(tmp_path, ["training.optimizer.clip_ratio=0.03", "training.optimizer.clip_norm=0.001"])
    machinery = equipped(Ranks(), config, GPT2)
    before = torch.cat([grad.flatten() for grad in gradients(machinery).values()])
    told = clip_and_update(machinery, config.training.optimizer)
    assert float(told) == pytest.approx(float(before.norm()), rel=1e-5)
    after = torch.cat([grad.flatten() for grad in gradients(machinery).values()])
    assert float(after.norm()) == pytest.approx(0.001, rel=1e-3)
    assert not torch.allclose(after / after.norm(), before / before.norm(), atol=1e-3)
