"""grow_model: a transformers model and a torch optimizer in somebody's own loop."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from raystage.growth import GrowthError, Method, grow_model
from raystage.models.family import build_model
from tests.growth.networks import GPT2, LLAMA, SPECS, batch, difference, train_model

every_family = pytest.mark.parametrize("name", SPECS)


def trained(name: str, optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW, **kwargs: Any) -> tuple[Any, Any]:
    model = build_model(SPECS[name], 0)
    decayed = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decayed, "lr": 3e-3, "weight_decay": 0.2}, {"params": plain, "lr": 1e-3, "weight_decay": 0.0}]
    optimizer = optimizer_class(groups, **kwargs)
    train_model(model, optimizer, GPT2)
    return model, optimizer


@every_family
def test_function_state_and_groups_come_along(name: str) -> None:
    model, optimizer = trained(name)
    grown, grown_optimizer = grow_model(model, optimizer, width=2, n_layer=5)
    inputs, _ = batch(GPT2)
    assert difference(grown(inputs).logits, model(inputs).logits) < 1e-5
    assert (grown.config.num_hidden_layers, grown.config.hidden_size) == (5, 32)
    assert isinstance(grown_optimizer, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"]) for g in grown_optimizer.param_groups] == [(3e-3, 0.2), (1e-3, 0.0)]
    assert [{p.dim() == 2 for p in g["params"]} for g in grown_optimizer.param_groups] == [{True}, {False}]
    in_groups = [p for g in grown_optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in in_groups} == {id(p) for p in grown.parameters()}
    assert {int(s["step"]) for s in grown_optimizer.state.values()} == {3}
    assert len(grown_optimizer.state) == len(optimizer.state)
    assert all(state["exp_avg"].shape == p.shape for p, state in grown_optimizer.state.items())
    assert train_model(grown, grown_optimizer, GPT2, 5)[-1] < train_model(model, optimizer, GPT2, 1)[0] + 0.5


@every_family
def test_the_arguments_are_left_as_they_were(name: str) -> None:
    model, optimizer = trained(name)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    states = [{field: value.clone() for field, value in state.items()} for state in optimizer.state.values()]
    grown, grown_optimizer = grow_model(model, optimizer, width=Fraction(3, 2) if "gpt2" not in name else 2, n_layer=3)
    assert grown_optimizer is not None
    train_model(grown, grown_optimizer, GPT2)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in kept.items())
    for state, before in zip(optimizer.state.values(), states, strict=True):
        assert all(torch.equal(state[field], value) for field, value in before.items())


def test_fresh_layers_join_the_groups_of_their_like() -> None:
    model, optimizer = trained("llama")
    grown, grown_optimizer = grow_model(model, optimizer, n_layer=4, method=Method(new_layers="fresh"))
    assert grown_optimizer is not None
    assert [{p.dim() == 2 for p in g["params"]} for g in grown_optimizer.param_groups] == [{True}, {False}]
    assert sum(len(g["params"]) for g in grown_optimizer.param_groups) == len(list(grown.parameters()))


def test_frozen_parameters_stay_out_of_the_optimizer() -> None:
    model = build_model(LLAMA, 0)
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if "mlp" in n], lr=0.1, momentum=0.9)
    train_model(model, optimizer, GPT2)
    grown, grown_optimizer = grow_model(model, optimizer, n_layer=4)
    assert grown_optimizer is not None
    mlp = [p for n, p in grown.named_parameters() if "mlp" in n]
    assert {id(p) for p in grown_optimizer.param_groups[0]["params"]} == {id(p) for p in mlp}


def test_an_unknown_optimizer_is_refused_or_reset() -> None:
    model, optimizer = trained("gpt2", torch.optim.RMSprop)
    with pytest.raises(GrowthError, match=r"optimizer RMSprop: .* known are AdamW, .*reset"):
        grow_model(model, optimizer, n_layer=3)
    grown, grown_optimizer = grow_model(model, optimizer, n_layer=3, reset_optimizer=True)
    assert isinstance(grown_optimizer, torch.optim.RMSprop)
    assert not grown_optimizer.state
    assert train_model(grown, grown_optimizer, GPT2)


def test_an_optimizer_of_that_name_with_other_state_is_refused() -> None:
    model, optimizer = trained("gpt2")
    optimizer.state[next(model.parameters())]["quantized"] = torch.ones(1)
    with pytest.raises(GrowthError, match="'quantized'"):
        grow_model(model, optimizer, n_layer=3)


def test_what_the_configuration_says_beside_sizes_is_kept() -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,
        mlp_bias=True,
        rms_norm_eps=1e-4,
        hidden_act="gelu",
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4},
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    for method in (Method(), Method(new_layers="fresh")):
        grown, _ = grow_model(model, width=3, n_layer=2, method=method)
        changed = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}
        before, after = config.to_dict(), grown.config.to_dict()
        assert {key for key in before if before[key] != after[key]} == changed
        assert not grown.training
        inputs, _ = batch(GPT2)
        assert difference(grown(inputs).logits, model(inputs).logits) < 1e-5
    assert grown.model.layers[1].self_attn.q_proj.weight.detach().std() == pytest.approx(0.3, rel=0.15)


def test_the_types_of_the_weights_are_kept() -> None:
    grown, _ = grow_model(build_model(LLAMA, 0).bfloat16(), width=2, n_layer=3, method=Method(new_layers="fresh"))
    assert {p.dtype for p in grown.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("gpt2", {"width": 1.3}, "width 13/10: d_model 16 would become 20.8; nearest that work: 1 or 3/2"),
        ("gpt2", {"hidden": 64}, "hidden: no size that grows; these do: n_layer, d_model"),
        ("gpt2", {"d_model": 20}, "d_model 20: does not go with 2 heads of 8 channels in gpt2; nearest that work: d_model 16"),
        ("llama", {"n_layer": 1}, "n_layer 2 -> 1: growth never makes a model smaller"),
        ("llama", {"n_head": 6, "n_kv_head": 4, "d_model": 24}, "n_head 6 with n_kv_head 4: cannot keep"),
    ],
)
def test_impossible_sizes_name_possible_ones(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(GrowthError) as caught:
        grow_model(build_model(SPECS[name], 0), **kwargs)
    assert str(caught.value).startswith(message)


def test_a_gpt2_told_its_width_finds_its_heads() -> None:
    grown, _ = grow_model(build_model(GPT2, 0), d_model=32)
    assert (grown.config.n_head, grown.config.n_inner) == (4, 24)
