"""New layers: where they go, what they start from, which optimizer state they take along."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raystage.growth import Method, grow
from raystage.growth.depth import Layer, layers_after
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec
from tests.growth.networks import GPT2, SPECS, difference, from_tensors, gradients, logits, shaken, state_of, widened

OLD, NEW = False, True
every_family = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
every_placement = pytest.mark.parametrize("placement", ["stack", "interleave"])


@pytest.mark.parametrize(
    ("n_before", "n_after", "placement", "expected"),
    [
        (2, 2, "stack", [(0, OLD), (1, OLD)]),
        (2, 5, "stack", [(0, OLD), (1, OLD), (0, NEW), (1, NEW), (0, NEW)]),
        (3, 4, "stack", [(0, OLD), (1, OLD), (2, OLD), (0, NEW)]),
        (2, 4, "interleave", [(0, OLD), (0, NEW), (1, OLD), (1, NEW)]),
        (2, 5, "interleave", [(0, OLD), (0, NEW), (0, NEW), (1, OLD), (1, NEW)]),
        (3, 4, "interleave", [(0, OLD), (0, NEW), (1, OLD), (2, OLD)]),
        (1, 3, "stack", [(0, OLD), (0, NEW), (0, NEW)]),
        (1, 3, "interleave", [(0, OLD), (0, NEW), (0, NEW)]),
        (0, 2, "stack", [(None, NEW), (None, NEW)]),
        (0, 2, "interleave", [(None, NEW), (None, NEW)]),
        (0, 0, "stack", []),
    ],
)
def test_placement_by_hand(n_before: int, n_after: int, placement: str, expected: list[tuple[int | None, bool]]) -> None:
    assert layers_after(n_before, n_after, placement) == [Layer(*pair) for pair in expected]  # type: ignore[arg-type]


@given(st.integers(1, 20), st.integers(0, 40), st.sampled_from(["stack", "interleave"]))
def test_every_old_layer_stays_once_and_in_order(n_before: int, more: int, placement: str) -> None:
    layers = layers_after(n_before, n_before + more, placement)  # type: ignore[arg-type]
    assert len(layers) == n_before + more
    assert [layer.source for layer in layers if not layer.is_new] == list(range(n_before))
    counts = [sum(layer.source == i for layer in layers) for i in range(n_before)]
    assert max(counts) - min(counts) <= 1


@every_family
@every_placement
def test_copies_are_bitwise_with_their_moments(spec: ModelSpec, placement: str) -> None:
    after = dataclasses.replace(spec, n_layer=5)
    method = Method(placement=placement, new_layers="copy")  # type: ignore[arg-type]
    state = state_of(shaken(spec))
    grown = grow(state, spec, after, method)
    axes = get_family(spec.family).axes(spec)
    for name, p in grown.parameters.items():
        source = old_name(name, layers_after(spec.n_layer, 5, placement), spec)  # type: ignore[arg-type]
        assert torch.equal(p, state.parameters[source]), name
        assert grown.states[name].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(t, state.states[source][field]) for field, t in grown.states[name].items()), name
    assert {axes.split(name)[0] for name in grown.parameters} == {None, 0, 1, 2, 3, 4}
    assert not method.preserves(spec, after)
    assert method.preserves(spec, widened(spec, 2))
    assert difference(logits(from_tensors(after, grown.parameters)), logits(shaken(spec))) > 1e-3


@every_family
@every_placement
def test_identities_are_copies_with_output_projections_off(spec: ModelSpec, placement: str) -> None:
    after = dataclasses.replace(spec, n_layer=5)
    layers = layers_after(spec.n_layer, 5, placement)  # type: ignore[arg-type]
    state = state_of(shaken(spec))
    grown = grow(state, spec, after, Method(placement=placement))  # type: ignore[arg-type]
    axes = get_family(spec.family).axes(spec)
    for name, p in grown.parameters.items():
        source, number = old_name(name, layers, spec), axes.split(name)[0]
        is_new = number is not None and layers[number].is_new
        off = is_new and axes.lookup(name).output_projection
        assert torch.equal(p, torch.zeros_like(p) if off else state.parameters[source]), name
        assert (name in grown.states) == (not is_new)
        if not is_new:
            assert all(torch.equal(t, state.states[source][field]) for field, t in grown.states[name].items())


@every_family
@every_placement
@pytest.mark.parametrize("n_before", [0, 1])
@pytest.mark.parametrize("new_layers", ["identity", "fresh"])
def test_from_none_and_from_one(spec: ModelSpec, placement: str, n_before: int, new_layers: str) -> None:
    before, after = dataclasses.replace(spec, n_layer=n_before), widened(spec, 2, n_layer=4)
    small = shaken(before)
    method = Method(placement=placement, new_layers=new_layers)  # type: ignore[arg-type]
    tensors = grow(state_of(small), before, after, method)
    grown = from_tensors(after, tensors.parameters)
    assert difference(logits(grown), logits(small)) < 1e-12
    axes = get_family(spec.family).axes(spec)
    assert {axes.split(name)[0] for name in tensors.states} == {None, *range(n_before)}
    # every new layer has something to learn
    projections = [name for name in tensors.parameters if axes.lookup(name).output_projection]
    assert all(gradients(grown)[name].any() for name in projections)


@pytest.mark.parametrize("key", ["gpt2", "llama", "qwen3"])
def test_fresh_layers_start_as_their_class_starts_them(key: str) -> None:
    """Standard deviation of matrices within 5 standard errors, gains one, biases zero, output projections zero."""
    spec = SPECS[key]
    grown = grow(state_of(shaken(spec)), spec, dataclasses.replace(spec, n_layer=6), Method(new_layers="fresh"))
    check_fresh(grown.parameters, spec, std=0.02)


def test_fresh_layers_follow_the_configuration_given() -> None:
    spec, after = GPT2, dataclasses.replace(GPT2, n_layer=6)
    config = get_family("gpt2").config(after)
    config.initializer_range = 0.3
    before = config.to_dict()
    check_fresh(grow(state_of(shaken(spec)), spec, after, Method(new_layers="fresh"), config=config).parameters, spec, std=0.3)
    assert config.to_dict() == before


def test_fresh_values_depend_on_seed_and_block_alone() -> None:
    spec, after = GPT2, dataclasses.replace(GPT2, n_layer=4)
    state = state_of(shaken(spec))
    torch.manual_seed(1)
    first = grow(state, spec, after, Method(new_layers="fresh", seed=7)).parameters
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    again = grow(state, spec, after, Method(new_layers="fresh", seed=7)).parameters
    other = grow(state, spec, after, Method(new_layers="fresh", seed=8)).parameters
    assert all(torch.equal(first[name], p) for name, p in again.items())
    matrix = "transformer.h.{}.mlp.c_fc.weight".format
    assert torch.equal(first[matrix(1)], other[matrix(1)])
    assert not torch.equal(first[matrix(2)], other[matrix(2)])
    assert not torch.equal(first[matrix(2)], first[matrix(3)])
    # interleaved: the same block number, whatever lies below it
    woven = grow(state, spec, after, Method(new_layers="fresh", placement="interleave", seed=7)).parameters
    assert torch.equal(woven[matrix(3)], first[matrix(3)])


def test_fresh_layers_have_the_states_dtype() -> None:
    state = state_of(shaken(GPT2))
    halves = dataclasses.replace(state, parameters={name: p.bfloat16() for name, p in state.parameters.items()}, states={})
    grown = grow(halves, GPT2, dataclasses.replace(GPT2, n_layer=3), Method(new_layers="fresh"))
    assert {p.dtype for p in grown.parameters.values()} == {torch.bfloat16}


def check_fresh(parameters: dict[str, Tensor], spec: ModelSpec, std: float) -> None:
    axes = get_family(spec.family).axes(spec)
    fresh = {name: p for name, p in parameters.items() if (axes.split(name)[0] or 0) >= spec.n_layer}
    assert len(fresh) == 4 * sum(axes.split(name)[0] == 0 for name in parameters)
    for name, p in fresh.items():
        if axes.lookup(name).output_projection or name.endswith("bias"):
            assert not p.any(), name
        elif p.dim() == 1:
            assert torch.equal(p, torch.ones_like(p)), name
        else:
            n = p.numel()
            assert abs(float(p.std()) / std - 1) < 5 / math.sqrt(2 * n), name
            assert abs(float(p.mean())) < 5 * std / math.sqrt(n), name


def old_name(name: str, layers: list[Layer], spec: ModelSpec) -> str:
    axes = get_family(spec.family).axes(spec)
    number, rest = axes.split(name)
    return name if number is None else axes.block_prefix.format(layers[number].source) + rest
