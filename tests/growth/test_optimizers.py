"""The state that growth predicts is the state that torch's own optimizer makes from the grown network's gradients."""

import dataclasses
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from raystage.growth import GrowthError, Method, TrainingTensors, grow
from raystage.growth.optimizer_state import meanings
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from tests.growth.networks import GPT2, SPECS, difference, from_tensors, gradients, parameters_of, shaken, state_of, widened

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

# a rate of zero: the parameters stay, the state of several steps remains comparable
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.0, momentum=0.9),
    "SGD dampened": lambda ps: torch.optim.SGD(ps, lr=0.0, momentum=0.9, dampening=0.5),
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.0, betas=(0.9, 0.95)),
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.0, betas=(0.9, 0.95)),
    "AdamW amsgrad": lambda ps: torch.optim.AdamW(ps, lr=0.0, betas=(0.9, 0.5), amsgrad=True),
    "Adafactor": lambda ps: torch.optim.Adafactor(ps, lr=0.0),
    "Muon": lambda ps: torch.optim.Muon([p for p in ps if p.dim() == 2], lr=0.0, weight_decay=0.0),
}
FIELDS = {
    "SGD": {"momentum_buffer"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW amsgrad": {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    "Adafactor": {"step", "row_var", "col_var", "variance"},
    "Muon": {"momentum_buffer"},
}


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_carried_state_is_the_state_of_the_grown_network(spec: ModelSpec, make: Make, factor: int) -> None:
    small, after = shaken(spec), widened(spec, factor, n_layer=3)
    state = stepped(small, make)
    predicted = grow(state, spec, after, Method(noise_scale=0.0))
    made = stepped(from_tensors(after, predicted.parameters), make)
    old_layers = {name: fields for name, fields in made.states.items() if ".2." not in name}
    assert predicted.optimizer == made.optimizer
    assert predicted.states.keys() == old_layers.keys()
    for name, fields in old_layers.items():
        assert predicted.states[name].keys() == fields.keys()
        for field, value in fields.items():
            assert predicted.states[name][field].shape == value.shape
            assert difference(predicted.states[name][field], value) < 1e-10, (name, field)


@pytest.mark.parametrize("key", FIELDS)
def test_the_steps_above_made_all_of_the_state(key: str) -> None:
    states = stepped(shaken(GPT2), OPTIMIZERS[key]).states.values()
    assert {field for fields in states for field in fields} == FIELDS[key]
    assert all(float(fields["step"]) == 3.0 for fields in states if "step" in fields)
    if "amsgrad" in key:
        assert any(not torch.equal(fields["max_exp_avg_sq"], fields["exp_avg_sq"]) for fields in states)


@pytest.mark.parametrize("d_model", [24, 40])
@pytest.mark.parametrize("spec", [spec for spec in SPECS.values() if spec.family != "gpt2"])
def test_at_a_fraction_under_rms_norm_whole_copies_map_gradients(spec: ModelSpec, d_model: int) -> None:
    """Heads and FFN units by fractions with it; qwen3's norms of queries and keys too."""
    after = dataclasses.replace(spec, d_model=d_model, n_head=d_model // 4, n_kv_head=d_model // 8, d_ff=30)
    assert gradient_gap(spec, after) < 1e-10
    # the same heads on fewer key-value heads: their copies have unequal readers
    assert gradient_gap(spec, dataclasses.replace(spec, n_head=4, n_kv_head=4)) > 1e-3


@pytest.mark.parametrize("key", ["gpt2", "gpt2 untied"])
def test_at_a_fraction_under_layer_norm_gradients_are_near(key: str) -> None:
    """The norm's own gradient mixes the left-over channels in."""
    after = dataclasses.replace(SPECS[key], d_model=24, n_head=3, n_kv_head=3, d_ff=30)
    assert 1e-3 < gradient_gap(SPECS[key], after) < 0.15


@pytest.mark.parametrize("spec", [SPECS["gpt2"], SPECS["qwen3"]], ids=["gpt2", "qwen3"])
def test_adams_next_step_is_no_larger_at_a_fraction(spec: ModelSpec) -> None:
    """Channels that copy nothing have an empty mean of gradients and an ordinary mean of squares, never an empty one."""
    n_head = 3 * spec.n_kv_head // 2 * spec.n_head // spec.n_kv_head
    after = dataclasses.replace(spec, d_model=24, n_head=n_head, n_kv_head=3, d_ff=30)
    state = stepped(shaken(spec), OPTIMIZERS["AdamW"])
    grown = grow(state, spec, after)
    for name, fields in state.states.items():
        new = grown.states[name]
        assert float(new["step"]) == 3.0
        assert float((new["exp_avg_sq"] == 0).double().mean()) <= float((fields["exp_avg_sq"] == 0).double().mean()), name
        assert step_size(new) <= step_size(fields) * (1 + 1e-9), name
        assert new["exp_avg"].shape == grown.parameters[name].shape


def test_what_has_no_state_gets_none() -> None:
    state = dataclasses.replace(stepped(shaken(GPT2), OPTIMIZERS["AdamW"]))
    del state.states["transformer.wpe.weight"]
    grown = grow(state, GPT2, widened(GPT2, 2))
    assert set(grown.states) == set(grown.parameters) - {"transformer.wpe.weight"}
    assert grow(dataclasses.replace(state, states={}), GPT2, widened(GPT2, 2)).states == {}


@pytest.mark.parametrize("optimizer", ["NAdam", "Adagrad", "LBFGS", "adamw", ""])
def test_an_unknown_optimizer_is_refused_with_the_known_ones(optimizer: str) -> None:
    state = TrainingTensors(parameters_of(shaken(GPT2)), {}, optimizer)
    with pytest.raises(GrowthError, match="its state means is unknown") as caught:
        grow(state, GPT2, widened(GPT2, 2))
    message = str(caught.value)
    assert message.startswith(f"optimizer {optimizer}: ")
    assert all(name in message for name in ("AdamW", "Adam,", "SGD", "Muon", "Adafactor", "reset"))
    assert "\n" not in message


def test_every_known_optimizer_is_torchs_and_tried_above() -> None:
    tried = {type(make(shaken(GPT2).parameters())).__name__ for make in OPTIMIZERS.values()}
    with pytest.raises(GrowthError) as caught:
        meanings("?")
    named = str(caught.value).split("known are ")[1].split(";")[0].split(", ")
    assert set(named) == tried


def gradient_gap(before: ModelSpec, after: ModelSpec) -> float:
    """The largest relative difference between mapped and real gradients, outside the channels that copy nothing."""
    tensors = grow(state_of(shaken(before)), before, after, Method(noise_scale=0.0))
    real = gradients(from_tensors(after, tensors.parameters))
    axes = get_family(before.family).axes(before)
    gaps = []
    for name, fields in tensors.states.items():
        pair = [fields["exp_avg"], real[name]]
        for dim, axis in enumerate(axes.lookup(name).axes):
            if axis.dimension == "embed":
                pair = [t.narrow(dim, 0, after.d_model // before.d_model * before.d_model) for t in pair]
        gaps.append(difference(*pair))
    return max(gaps)


def stepped(trainee: Trainee, make: Make) -> TrainingTensors:
    """The state after three steps on three batches, all at the same parameters."""
    optimizer = make(list(trainee.model.parameters()))
    before = parameters_of(trainee)
    for seed in (5, 6, 7):
        gradients(trainee, seed)
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in trainee.model.named_parameters())
    states = {
        name: {field: t for field, t in optimizer.state[p].items() if isinstance(t, Tensor)}
        for name, p in trainee.model.named_parameters()
        if p in optimizer.state
    }
    return TrainingTensors(before, states, type(optimizer).__name__)


def step_size(fields: dict[str, Tensor]) -> float:
    """The largest of Adam's steps, per rate and without its eps."""
    at_work = fields["exp_avg_sq"] > 0
    return float((fields["exp_avg"].abs() / fields["exp_avg_sq"].sqrt())[at_work].max())
