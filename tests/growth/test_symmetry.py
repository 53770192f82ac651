"""Copies are told apart, by noise that leaves the function alone; new layers that start switched off learn."""

import dataclasses
import functools

import pytest
import torch
from torch import Tensor

from raystage.growth import Method, grow
from raystage.growth.method import NOISE_SCALE
from raystage.growth.symmetry import seed_of
from raystage.models.axes import Axis
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from tests.growth.networks import GPT2, LLAMA, SPECS, batch, difference, from_tensors, logits, parameters_of, shaken, state_of, widened

STEPS = 10
QWEN3 = dataclasses.replace(SPECS["qwen3"], n_head=8)
# heads in groups that keep their size, so that each copy is one of a whole head and what reads it
GROWTHS = {
    "gpt2 x2": (GPT2, widened(GPT2, 2)),
    "gpt2 x3": (GPT2, widened(GPT2, 3)),
    "gpt2 untied x2": (SPECS["gpt2 untied"], widened(SPECS["gpt2 untied"], 2)),
    "llama tied x2": (LLAMA, widened(LLAMA, 2)),
    "qwen3 x3": (SPECS["qwen3"], widened(SPECS["qwen3"], 3)),
    "gpt2 fraction": (GPT2, dataclasses.replace(GPT2, d_model=24, n_head=3, n_kv_head=3, d_ff=30)),
    "llama fraction": (LLAMA, dataclasses.replace(LLAMA, d_model=24, n_head=6, n_kv_head=3, d_ff=30)),
    "gpt2 ffn alone": (dataclasses.replace(GPT2, d_ff=8), dataclasses.replace(GPT2, d_ff=12)),
    "llama ffn alone": (dataclasses.replace(LLAMA, d_ff=8), dataclasses.replace(LLAMA, d_ff=16)),
    "qwen3 hidden alone": (QWEN3, dataclasses.replace(QWEN3, d_model=32)),
}
every_growth = pytest.mark.parametrize("key", GROWTHS)


@every_growth
def test_without_noise_copies_stay_equal(key: str) -> None:
    gaps = copy_gaps(trained(key, 0.0), *GROWTHS[key])
    assert max(gaps.values()) < 1e-9


@every_growth
def test_with_the_default_noise_every_copied_channel_goes_its_own_way(key: str) -> None:
    gaps = copy_gaps(trained(key, NOISE_SCALE), *GROWTHS[key])
    assert min(gaps.values()) > 1e-5, gaps


@every_growth
def test_with_the_default_noise_every_matrix_with_room_gains_rank(key: str) -> None:
    """Every matrix of the blocks whose shorter side grew, against the same steps without noise and against before them."""
    before, after = GROWTHS[key]
    start = grow(state_of(shaken(before)), before, after, Method(noise_scale=0.0)).parameters
    plain, noisy = parameters_of(trained(key, 0.0)), parameters_of(trained(key, NOISE_SCALE))
    axes = get_family(before.family).axes(before)
    small = {name: p for name, p in parameters_of(shaken(before)).items() if p.dim() == 2 and axes.split(name)[0] is not None}
    with_room = [name for name, p in small.items() if min(noisy[name].shape) > min(p.shape)]
    assert len(with_room) >= 4
    for name in with_room:
        assert effective_rank(noisy[name]) > effective_rank(plain[name]) + 0.1, name
        assert effective_rank(noisy[name]) > effective_rank(start[name]) + 0.1, name


@pytest.mark.parametrize("key", [key for key, (before, after) in GROWTHS.items() if after.d_model == 2 * before.d_model])
def test_copied_channels_come_to_carry_different_things(key: str) -> None:
    """Noise in what reads equal copies moves nothing by itself; after some steps the two halves of the stream differ."""
    before, after = GROWTHS[key]
    for noise_scale, apart in ((0.0, False), (NOISE_SCALE, True)):
        with torch.no_grad():
            hidden = get_family(before.family).hidden_states(trained(key, noise_scale).model, batch(after)[0], None, None)
        first, second = hidden.split(before.d_model, dim=-1)
        assert (difference(second, first) > 1e-3) == apart


@every_growth
def test_noise_leaves_the_function_alone(key: str) -> None:
    before, after = GROWTHS[key]
    small = shaken(before)
    grown = grow(state_of(small), before, after, Method(noise_scale=3.0))
    plain = grow(state_of(small), before, after, Method(noise_scale=0.0))
    assert difference(logits(from_tensors(after, grown.parameters)), logits(small)) < 1e-12
    # and the optimizer's state
    for name, fields in plain.states.items():
        assert all(torch.equal(value, grown.states[name][field]) for field, value in fields.items()), name


@pytest.mark.parametrize("key", ["gpt2 x2", "qwen3 x3", "llama fraction"])
def test_noise_has_the_scale_it_says(key: str) -> None:
    """Relative to the matrix, and in everything that reads copies, nowhere else."""
    before, after = GROWTHS[key]
    plain, noisy = (grow(state_of(shaken(before)), before, after, Method(noise_scale=x)).parameters for x in (0.0, 0.25))
    changed = {name: noisy[name] - p for name, p in plain.items() if not torch.equal(noisy[name], p)}
    axes = get_family(before.family).axes(before)
    assert set(changed) == {name for name in plain if any(axis.role in ("in", "read") for axis in axes.lookup(name).axes)}
    for name, noise in changed.items():
        rms = float(plain[name].square().mean().sqrt())
        # the first copy takes up the noise of up to two others
        assert 0.18 * rms < float(noise[noise != 0].square().mean().sqrt()) < 0.36 * rms, name


def test_the_first_copy_of_an_output_stays_and_every_other_gets_noise_of_its_own() -> None:
    plain, noisy = (grow(state_of(shaken(GPT2)), GPT2, widened(GPT2, 3), Method(noise_scale=x)).parameters for x in (0.0, 0.5))
    for name in (f"transformer.h.0.{suffix}.weight" for suffix in ("mlp.c_fc", "mlp.c_proj", "attn.c_proj")):
        first, second, third = (noisy[name] - plain[name]).chunk(3, dim=1)
        assert not first.any()
        assert (second != 0).all()
        assert (third != 0).all()
        assert difference(second, third) > 0.1


def test_noise_depends_on_seed_and_name_alone() -> None:
    spec, after = GPT2, widened(GPT2, 2, n_layer=4)
    state = state_of(shaken(spec))
    copies = functools.partial(Method, new_layers="copy")
    first, again, other = (grow(state, spec, after, copies(seed=seed)).parameters for seed in (3, 3, 4))
    assert all(torch.equal(first[name], p) for name, p in again.items())
    matrices = [name for name in first if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))]
    assert len(matrices) == 16
    assert not any(torch.equal(first[name], other[name]) for name in matrices)
    # layers 0 and 2 come from the same one
    assert not any(torch.equal(first[name], first[name.replace(".h.0.", ".h.2.")]) for name in matrices if ".h.0." in name)
    alone = grow(dataclasses.replace(state, states={}), spec, after, copies(seed=3)).parameters
    assert all(torch.equal(first[name], p) for name, p in alone.items())


def test_seeds_differ_by_number_and_name() -> None:
    seeds = {seed_of(seed, name) for seed in range(20) for name in ("a", "b", "block 1", "block 11")}
    assert len(seeds) == 80
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("new_layers", ["identity", "fresh"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_new_layers_learn(new_layers: str, spec: ModelSpec) -> None:
    """The first step moves their output projections off zero, and the rest of them not yet; the second moves that too."""
    after = dataclasses.replace(spec, n_layer=3)
    method = Method(new_layers=new_layers)  # type: ignore[arg-type]
    grown = from_tensors(after, grow(state_of(shaken(spec)), spec, after, method).parameters)
    axes = get_family(spec.family).axes(spec)
    new = {name: p for name, p in grown.model.named_parameters() if axes.split(name)[0] == 2}
    output = {name for name in new if axes.lookup(name).output_projection}
    start = parameters_of(grown)
    assert output
    assert all(not start[name].any() for name in output)
    descend(grown, 1)
    assert {name for name, p in new.items() if not torch.equal(p, start[name])} == output
    descend(grown, 1)
    assert {name for name, p in new.items() if not torch.equal(p, start[name])} == set(new)


@functools.cache
def trained(key: str, noise_scale: float) -> Trainee:
    """The grown network after some steps of AdamW, with the state that growth carried."""
    before, after = GROWTHS[key]
    tensors = grow(state_of(shaken(before)), before, after, Method(noise_scale=noise_scale))
    grown = from_tensors(after, tensors.parameters)
    optimizer = torch.optim.AdamW(grown.parameters(), lr=3e-3, eps=1e-5)
    for name, p in grown.model.named_parameters():
        optimizer.state[p] = tensors.states[name]
    for i in range(STEPS):
        step(grown, optimizer, i)
    return grown


def descend(trainee: Trainee, steps: int) -> None:
    """Plain gradient steps: what has no gradient does not move."""
    optimizer = torch.optim.SGD(trainee.parameters(), lr=0.1)
    for i in range(steps):
        step(trainee, optimizer, i)


def step(trainee: Trainee, optimizer: torch.optim.Optimizer, number: int) -> None:
    inputs, targets = batch(trainee.spec, seed=200 + number)
    optimizer.zero_grad()
    (trainee(inputs, targets) / targets.numel()).backward()
    optimizer.step()


def copy_gaps(trainee: Trainee, before: ModelSpec, after: ModelSpec) -> dict[tuple[str, str], float]:
    """For each parameter and each of its grown axes, how far copies are apart, relative to the parameter."""
    axes = get_family(before.family).axes(before)
    gaps: dict[tuple[str, str], float] = {}
    for name, p in parameters_of(trainee).items():
        for dim, axis in enumerate(axes.lookup(name).axes):
            pairs = copied(axis, before, after)
            if pairs:
                units = p.unflatten(dim, (axis.sections, -1, before.head_dim if "heads" in axis.dimension else 1))
                old, new = (units.index_select(dim + 1, torch.tensor(side)) for side in zip(*pairs, strict=True))
                gaps[name, axis.dimension] = float((new - old).abs().max() / p.abs().max())
    return gaps


def copied(axis: Axis, before: ModelSpec, after: ModelSpec) -> list[tuple[int, int]]:
    """Pairs of equal units along an axis: heads and FFN units by number modulo the old one; channels in whole copies alone."""
    if axis.dimension == "embed":
        old, new = before.d_model, after.d_model // before.d_model * before.d_model
    elif axis.dimension == "ffn":
        old, new = before.d_ff, after.d_ff
    elif axis.dimension in ("heads", "kv_heads"):
        old, new = (s.n_head if axis.dimension == "heads" else s.n_kv_head for s in (before, after))
    else:
        return []
    return [(i % old, i) for i in range(old, new)]


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the normalized singular values (Roy and Vetterli 2007)."""
    p = torch.linalg.svdvals(matrix)
    p = p / p.sum()
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))
