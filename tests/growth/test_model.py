"""grow_model: a transformers model and a torch optimizer in somebody's own loop."""

import copy
import dataclasses
from fractions import Fraction
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

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


@pytest.mark.parametrize("method", [Method(), Method(new_layers="fresh"), Method(placement="interleave", new_layers="fresh")])
def test_new_layers_join_the_groups_of_the_layers_they_come_from(method: Method) -> None:
    model = build_model(SPECS["llama"], 0)
    rates = {"layers.0.": 1e-4, "layers.1.": 2e-4}
    groups = [{"params": [p for n, p in model.named_parameters() if layer in n], "lr": lr} for layer, lr in rates.items()]
    grown, optimizer = grow_model(model, torch.optim.AdamW(groups), n_layer=4, method=method)
    group_of = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    sources = [0, 1, 0, 1] if method.placement == "stack" else [0, 0, 1, 1]
    for number, source in enumerate(sources):
        assert {group_of[id(p)] for p in grown.model.layers[number].parameters()} == {[1e-4, 2e-4][source]}
    assert not {id(grown.lm_head.weight), id(grown.model.norm.weight)} & set(group_of)


def test_from_no_layers_groups_go_by_dimensions() -> None:
    model = build_model(dataclasses.replace(GPT2, n_layer=0), 0)
    groups = [{"params": [p for p in model.parameters() if p.dim() == d], "weight_decay": 0.1 * d} for d in (1, 2)]
    grown, optimizer = grow_model(model, torch.optim.AdamW(groups), n_layer=2)
    assert [{p.dim() for p in g["params"]} for g in optimizer.param_groups] == [{1}, {2}]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(grown.parameters()))


@pytest.mark.parametrize("new_layers", ["identity", "fresh"])
def test_what_is_frozen_stays_frozen_and_out_of_the_optimizer(new_layers: Any) -> None:
    model = build_model(LLAMA, 0)
    for name, p in model.named_parameters():
        p.requires_grad_("mlp" in name)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    train_model(model, optimizer, GPT2)
    grown, grown_optimizer = grow_model(model, optimizer, n_layer=4, method=Method(new_layers=new_layers))
    mlp = [p for n, p in grown.named_parameters() if "mlp" in n]
    assert len(mlp) == 12
    assert {id(p) for p in grown_optimizer.param_groups[0]["params"]} == {id(p) for p in mlp}
    assert {id(p) for p in grown.parameters() if p.requires_grad} == {id(p) for p in mlp}


def test_muon_and_adamw_share_a_model() -> None:
    model = build_model(SPECS["llama"], 0)
    inside = {n for n, p in model.named_parameters() if "layers" in n and p.dim() == 2}
    muon = torch.optim.Muon([p for n, p in model.named_parameters() if n in inside], lr=1e-2)
    adamw = torch.optim.AdamW([p for n, p in model.named_parameters() if n not in inside], lr=1e-3)
    for optimizer in (muon, adamw):
        train_model(model, optimizer, GPT2)
    grown, (grown_muon, grown_adamw) = grow_model(model, [muon, adamw], width=2, n_layer=3, method=Method(new_layers="fresh"))
    assert (type(grown_muon), type(grown_adamw)) == (torch.optim.Muon, torch.optim.AdamW)
    assert {p.dim() for p in grown_muon.param_groups[0]["params"]} == {2}
    held = [p for optimizer in (grown_muon, grown_adamw) for p in optimizer.param_groups[0]["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(grown.parameters()))
    assert len(grown_muon.state) == len(muon.state)
    for optimizer in (grown_muon, grown_adamw):
        train_model(grown, optimizer, GPT2)


def test_the_optimizers_own_affairs_come_along() -> None:
    """A parameter outside the model with its state, names, a rate that is a tensor; but no scheduler's memory."""
    model = build_model(GPT2, 0)
    outside = torch.nn.Parameter(torch.ones(3))
    lr = torch.tensor(1e-3)
    optimizer = torch.optim.AdamW([*model.named_parameters(), ("value_head", outside)], lr=lr)
    outside.grad = torch.ones(3)
    train_model(model, optimizer, GPT2, 1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    grown, grown_optimizer = grow_model(model, optimizer, n_layer=3)
    (group,) = grown_optimizer.param_groups
    assert any(p is outside for p in group["params"])
    assert torch.equal(grown_optimizer.state[outside]["exp_avg"], optimizer.state[outside]["exp_avg"])
    named = dict(grown.named_parameters())
    assert all(named[name] is p for name, p in zip(group["param_names"], group["params"], strict=True) if name in named)
    assert "initial_lr" not in group
    group["lr"].fill_(0.5)
    assert lr == pytest.approx(1e-3)


def test_what_is_no_tensor_comes_along() -> None:
    model = build_model(GPT2, 0)
    model.activation_checkpointing_enable()
    model.generation_config.temperature = 0.3
    grown, _ = grow_model(model, n_layer=3)
    assert grown.is_activation_checkpointing
    assert grown.generation_config.temperature == 0.3


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


def test_half_precision_is_grown_in_float32_and_rounded_once() -> None:
    half = build_model(LLAMA, 0).bfloat16()
    wide = copy.deepcopy(half).float()
    grown, grown_wide = (
        dict(grow_model(model, width=3, n_layer=3, method=Method(noise_scale=0.5))[0].named_parameters()) for model in (half, wide)
    )
    assert all(torch.equal(p, grown_wide[name].bfloat16()) for name, p in grown.items())


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("gpt2", {"width": 1.3}, "width 13/10: d_model 16 would become 20.8; nearest that work: 3/2"),
        ("gpt2", {"width": float("nan")}, "width nan: must be a factor of at least 1"),
        ("gpt2", {"width": 0}, "width 0: must be a factor of at least 1"),
        ("gpt2", {"n_layer": 2.5}, "n_layer 2.5: must be a whole number"),
        ("gpt2", {"hidden": 64}, "hidden: no size that grows; these do: n_layer, d_model"),
        ("gpt2", {"d_model": 20}, "d_model 20: does not go with 2 heads of 8 channels in gpt2; nearest that work: d_model 24"),
        ("llama", {"n_layer": 1}, "n_layer 2 -> 1: growth never makes a model smaller"),
        ("llama", {"n_head": 6, "n_kv_head": 4, "d_model": 24}, "n_head 6 with n_kv_head 4: cannot keep"),
    ],
)
def test_impossible_sizes_name_possible_ones(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(GrowthError) as caught:
        grow_model(build_model(SPECS[name], 0), **kwargs)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"new_layers": "identiy"}, "new_layers='identiy': must be one of identity, copy, fresh"),
        ({"placement": "top"}, "placement='top': must be one of stack, interleave"),
        ({"noise_scale": float("nan")}, "noise_scale=nan: must be a number of at least 0"),
    ],
)
def test_a_method_that_there_is_not_is_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(GrowthError) as caught:
        Method(**choice)
    assert str(caught.value) == message


def test_a_model_that_growth_does_not_know_is_refused() -> None:
    stranger = MistralForCausalLM(
        MistralConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(GrowthError, match="family 'mistral' is unknown; raystage grows gpt2, llama, qwen3"):
        grow_model(stranger, n_layer=2)
    adapted = build_model(GPT2, 0)
    adapted.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(GrowthError, match=r"parameter 'adapter.weight': no gpt2 has one"):
        grow_model(adapted, n_layer=3)


def test_a_gpt2_told_its_width_finds_its_heads() -> None:
    grown, _ = grow_model(build_model(GPT2, 0), d_model=32)
    assert (grown.config.n_head, grown.config.n_inner) == (4, 24)


def test_noise_is_less_in_half_precision() -> None:
    assert [Method().noise_for(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)] == [2.0, 0.5, 0.5]
    assert Method(noise_scale=1.0).noise_for(torch.bfloat16) == 1.0
