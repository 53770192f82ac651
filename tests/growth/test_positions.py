"""A longer context: learned positions repeated or stretched, and the base of rotary ones."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from raystage.growth import Method, TrainingTensors, grow
from raystage.growth.position import grow_position_state, grow_positions
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec
from tests.growth.networks import GPT2, LLAMA, SPECS, difference, from_tensors, logits, shaken, state_of, widened

WPE = "transformer.wpe.weight"
INTERPOLATE = Method(positions="interpolate")
lengths = pytest.mark.parametrize("length", [17, 24, 32, 41, 64])


@lengths
def test_repeated_positions_keep_old_sequences(length: int) -> None:
    after = dataclasses.replace(GPT2, context_length=length)
    small, state = shaken(GPT2), state_of(shaken(GPT2))
    grown = grow(state, GPT2, after)
    old, new = state.parameters[WPE], grown.parameters[WPE]
    assert all(torch.equal(new[i], old[i % 16]) for i in range(length))
    assert len(new) == length
    assert Method().preserves(GPT2, after)
    assert difference(logits(from_tensors(after, grown.parameters)), logits(small)) < 1e-13
    moments, old_moments = grown.states[WPE], state.states[WPE]
    assert torch.equal(moments["exp_avg"][:16], old_moments["exp_avg"])
    assert not moments["exp_avg"][16:].any()
    assert all(torch.equal(moments["exp_avg_sq"][i], old_moments["exp_avg_sq"][i % 16]) for i in range(length))
    assert moments["step"] == old_moments["step"]


@lengths
def test_interpolated_positions_are_linear_between_fixed_ends(length: int) -> None:
    after = dataclasses.replace(GPT2, context_length=length)
    state = state_of(shaken(GPT2))
    grown = grow(state, GPT2, after, INTERPOLATE)
    for old, new in [(state.parameters[WPE], grown.parameters[WPE]), *paired_moments(state, grown)]:
        places = np.linspace(0, 15, length)
        expected = np.stack([np.interp(places, np.arange(16), channel) for channel in old.T.numpy()], axis=1)
        assert np.abs(new.numpy() - expected).max() < 1e-12
        assert difference(new[[0, -1]], old[[0, -1]]) < 1e-15
    assert grown.states[WPE]["step"] == 7.0
    assert (grown.states[WPE]["exp_avg_sq"] >= 0).all()


def test_interpolation_says_that_it_does_not_keep_the_function() -> None:
    after = dataclasses.replace(GPT2, context_length=32)
    grown = from_tensors(after, grow(state_of(shaken(GPT2)), GPT2, after, INTERPOLATE).parameters)
    assert not INTERPOLATE.preserves(GPT2, after)
    assert difference(logits(grown), logits(shaken(GPT2))) > 1e-3
    # and it keeps it where nothing is stretched
    assert INTERPOLATE.preserves(GPT2, widened(GPT2, 2))
    assert INTERPOLATE.preserves(LLAMA, dataclasses.replace(LLAMA, context_length=32))


@pytest.mark.parametrize("how", ["repeat", "interpolate"])
def test_length_and_width_together_are_one_after_the_other(how: str) -> None:
    longer, wider = dataclasses.replace(GPT2, context_length=23), widened(GPT2, 2, context_length=23)
    method = Method(noise_scale=0.0, positions=how)  # type: ignore[arg-type]
    state = state_of(shaken(GPT2))
    at_once = grow(state, GPT2, wider, method)
    in_turn = grow(grow(state, GPT2, longer, method), longer, wider, method)
    assert all(torch.equal(at_once.parameters[name], p) for name, p in in_turn.parameters.items())
    assert all(torch.equal(at_once.states[name][field], t) for name, fields in in_turn.states.items() for field, t in fields.items())


@pytest.mark.parametrize("how", ["repeat", "interpolate"])
def test_a_table_of_one_row_and_the_same_length(how: Literal["repeat", "interpolate"]) -> None:
    row, table = torch.tensor([[1.0, 2.0]]), torch.arange(10.0).reshape(5, 2)
    assert torch.equal(grow_positions(row, 3, how), row.repeat(3, 1))
    assert torch.equal(grow_positions(table, 5, how), table)


def test_states_averaged_over_a_dimension() -> None:
    rows, columns = torch.arange(1.0, 5.0)[:, None], torch.arange(6.0)[None]
    assert torch.equal(grow_position_state(rows, 6, "repeat", "row_square"), torch.tensor([1.0, 2, 3, 4, 1, 2])[:, None])
    grown = grow_position_state(columns, 6, "repeat", "column_square")
    assert torch.equal(grown, columns)
    assert grown.data_ptr() != columns.data_ptr()


@pytest.mark.parametrize("key", ["llama", "qwen3 tied"])
def test_a_rotary_base_changes_no_tensor_and_claims_nothing(key: str) -> None:
    spec = SPECS[key]
    after = dataclasses.replace(spec, rope_theta=500_000.0, context_length=64)
    state = state_of(shaken(spec))
    grown = grow(state, spec, after)
    assert grown.parameters.keys() == state.parameters.keys()
    assert all(torch.equal(grown.parameters[name], p) for name, p in state.parameters.items())
    assert all(torch.equal(grown.states[name][field], t) for name, fields in state.states.items() for field, t in fields.items())
    assert not Method().preserves(spec, after)
    assert difference(logits(from_tensors(after, grown.parameters)), logits(shaken(spec))) > 1e-4
    # a longer context alone is no change of function
    longer = dataclasses.replace(spec, context_length=64)
    assert Method().preserves(spec, longer)
    assert torch.equal(logits(from_tensors(longer, grow(state, spec, longer).parameters)), logits(shaken(spec)))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_resized_configuration_has_the_sizes_and_keeps_the_rest(spec: ModelSpec) -> None:
    family = get_family(spec.family)
    after = widened(spec, 2, n_layer=3, context_length=40)
    if spec.rope_theta is not None:
        after = dataclasses.replace(after, rope_theta=2e5)
    config = family.config(spec)
    config.initializer_range = 0.123
    resized = family.resize(config, after, [0, 1, 0])
    assert family.read(resized) == after
    assert family.read(config) == spec
    assert resized.initializer_range == 0.123
    grown = from_tensors(after, grow(state_of(shaken(spec)), spec, after).parameters)
    assert {name: p.shape for name, p in family.build_empty(resized).named_parameters()} == {
        name: p.shape for name, p in grown.model.named_parameters()
    }


def test_a_rotary_base_keeps_its_kind_of_scaling() -> None:
    family = get_family("llama")
    config = family.config(LLAMA)
    config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    resized = family.resize(config, dataclasses.replace(LLAMA, rope_theta=3e4), [0, 1])
    assert resized.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 3e4}
    assert config.rope_parameters["rope_theta"] == 1e4


def test_layer_types_follow_their_layers() -> None:
    family, spec = get_family("qwen3"), SPECS["qwen3"]
    config = family.config(spec)
    config.layer_types = ["full_attention", "sliding_attention"]
    resized = family.resize(config, dataclasses.replace(spec, n_layer=5), [0, 0, 1, 1, None])
    assert resized.layer_types == ["full_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def paired_moments(state: TrainingTensors, grown: TrainingTensors) -> list[tuple[Tensor, Tensor]]:
    return [(state.states[WPE][field], grown.states[WPE][field]) for field in ("exp_avg", "exp_avg_sq")]
