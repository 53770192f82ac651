"""Growth under FSDP2 on gloo ranks of the CPU: the same as without it, bit for bit, one whole parameter at a time."""

import dataclasses
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from raystage.devices.ranks import Ranks
from raystage.growth import GrowthError, Method, grow_model, sharded
from raystage.growth import model as growth_model
from raystage.models.family import build_model
from raystage.models.spec import ModelSpec
from tests.gang import gang_of
from tests.growth.networks import SPECS, train_model


@pytest.mark.parametrize("world_size", [2, 3])
def test_sharded_growth_equals_unsharded_growth_bitwise(world_size: int, tmp_path: Path) -> None:
    """Every family, depth and width at once, AdamW's state with them; widths and vocabularies that the ranks do not divide."""
    with gang_of(world_size, tmp_path) as gang:
        gang(_rank)


def _rank(ranks: Ranks) -> None:
    mesh = init_device_mesh("cpu", (ranks.world_size,))
    for name in ("gpt2", "llama", "qwen3 tied"):
        _check_family(dataclasses.replace(SPECS[name], vocab_size=65), mesh)
    _check_refusals(SPECS["llama"], mesh)


def _check_family(spec: ModelSpec, mesh: DeviceMesh) -> None:
    plain, cut = build_model(spec, 0), build_model(spec, 0)
    for model in (plain, cut):
        model.get_input_embeddings().requires_grad_(False)
    _shard(cut, mesh)
    plain_optimizer: torch.optim.Optimizer | None
    cut_optimizer: torch.optim.Optimizer | None
    plain_optimizer, cut_optimizer = (torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (plain, cut))
    train_model(cut, cut_optimizer, spec)
    train_model(plain, plain_optimizer, spec)
    _same_state(plain, plain_optimizer, cut, cut_optimizer)
    method = Method(seed=3, new_layers="fresh", placement="interleave")
    grown, optimizer = grow_model(plain, plain_optimizer, method=method, width=2, n_layer=5)
    watch = _Watch()
    growth_model.full = watch.full
    cut_grown, cut_optimizer = grow_model(cut, cut_optimizer, method=method, shard=lambda m: _shard(m, mesh), width=2, n_layer=5)
    growth_model.full = sharded.full
    assert watch.most_alive == 1, "more than one whole parameter at a time"
    assert optimizer is not None
    assert cut_optimizer is not None
    _assert_equal(grown, optimizer, cut_grown, cut_optimizer)
    # and both train on alike
    losses, cut_losses = train_model(grown, optimizer, spec), train_model(cut_grown, cut_optimizer, spec)
    assert cut_losses == pytest.approx(losses, rel=1e-5)


class _Watch:
    """How many gathered tensors live at the same time."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[Tensor]] = []
        self.most_alive = 0

    def full(self, tensor: Tensor) -> Tensor:
        whole = sharded.full(tensor)
        if isinstance(tensor, DTensor):
            self.seen.append(weakref.ref(whole))
            self.most_alive = max(self.most_alive, sum(ref() is not None for ref in self.seen))
        return whole


def _check_refusals(spec: ModelSpec, mesh: DeviceMesh) -> None:
    model = build_model(spec, 0)
    _shard(model, mesh)
    with pytest.raises(GrowthError, match="give shard="):
        grow_model(model, n_layer=3)
    optimizer = torch.optim.AdamW(model.parameters())
    train_model(model, optimizer, spec)
    optimizer.state[next(model.parameters())]["max_exp_avg_sq"] = torch.ones(3)
    with pytest.raises(GrowthError, match="'max_exp_avg_sq' is not cut as its parameter is"):
        grow_model(model, optimizer, n_layer=3, shard=lambda m: _shard(m, mesh))


def _shard(model: nn.Module, mesh: DeviceMesh) -> None:
    body = model.get_submodule("transformer.h" if hasattr(model, "transformer") else "model.layers")
    for block in body.children():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _same_state(plain: nn.Module, plain_optimizer: torch.optim.Optimizer, cut: nn.Module, cut_optimizer: torch.optim.Optimizer) -> None:
    """Rounding of the gradients' sums apart, both are alike; growth is compared from the very same state."""
    for p, q in zip(plain.parameters(), cut.parameters(), strict=True):
        p.data.copy_(sharded.full(q.data))
        for field, value in cut_optimizer.state.get(q, {}).items():
            plain_optimizer.state[p][field].copy_(sharded.full(value))


def _assert_equal(plain: nn.Module, plain_optimizer: torch.optim.Optimizer, cut: nn.Module, cut_optimizer: torch.optim.Optimizer) -> None:
    named, cut_named = dict(plain.named_parameters()), dict(cut.named_parameters())
    assert list(named) == list(cut_named)
    for name, p in named.items():
        q = cut_named[name]
        assert isinstance(q.data, DTensor)
        assert torch.equal(p.data, sharded.full(q.data)), name
        assert (p.dtype, p.requires_grad) == (q.dtype, q.requires_grad)
        state, cut_state = plain_optimizer.state.get(p, {}), cut_optimizer.state.get(q, {})
        assert set(state) == set(cut_state)
        assert all(isinstance(value, DTensor) for field, value in cut_state.items() if field != "step")
        assert all(torch.equal(state[field], sharded.full(cut_state[field])) for field in state), name
