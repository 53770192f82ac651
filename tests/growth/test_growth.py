"""DESIGN 5's table, by autograd in float64: the gradient of the grown network is the map of the small one's."""

import dataclasses

import pytest
import torch

from raystage.config.schema import Optimizer
from raystage.growth import grow
from raystage.models.family import ModelSpec, get_family
from raystage.models.trainee import Trainee
from raystage.training.optimizer import make_optimizer, read_tensors, write_tensors
from tests.growth.networks import SPEC, batch, from_tensors, gradients, parameters_of, shaken, state_of

EXACT = 1e-12


def loss_of(trainee: Trainee, spec: ModelSpec) -> float:
    inputs, targets = batch(spec)
    return float(trainee(inputs, targets).detach() / targets.numel())


@pytest.mark.parametrize(
    ("n_layer", "d_model", "noise"),
    [(4, 16, 0.0), (5, 16, 0.0), (2, 32, 0.0), (2, 48, 0.0), (4, 32, 0.0), (2, 32, 0.5), (2, 48, 0.5), (3, 32, 0.7)],
)
def test_the_function_is_unchanged(n_layer: int, d_model: int, noise: float) -> None:
    small, after = shaken(SPEC), dataclasses.replace(SPEC, n_layer=n_layer, d_model=d_model)
    grown = from_tensors(after, grow(state_of(small), SPEC, after, noise_scale=noise, seed=3).parameters)
    inputs, _ = batch(SPEC)
    with torch.no_grad():
        before = small.model(inputs).logits
        difference = (grown.model(inputs).logits - before).abs().max() / before.abs().max()
    assert difference < EXACT
    assert abs(loss_of(grown, after) - loss_of(small, SPEC)) < EXACT


@pytest.mark.parametrize("factor", [2, 3])
def test_width_maps_gradients_and_moments_as_the_table_says(factor: int) -> None:
    small, after = shaken(SPEC), dataclasses.replace(SPEC, d_model=SPEC.d_model * factor)
    tensors = grow(state_of(small), SPEC, after)
    autograd = gradients(from_tensors(after, tensors.parameters))
    assert set(autograd) == set(tensors.moments)
    for name, gradient in autograd.items():
        moments = tensors.moments[name]
        scale = max(float(gradient.abs().max()), 1e-6)
        assert (moments.exp_avg - gradient).abs().max() < 1e-10 * scale, name
        assert (moments.exp_avg_sq - gradient.square()).abs().max() < 1e-10 * scale**2, name
        assert moments.step == 7.0


def test_depth_keeps_old_gradients_and_starts_new_tensors_empty() -> None:
    small, after = shaken(SPEC), dataclasses.replace(SPEC, n_layer=5)
    before = gradients(small)
    tensors = grow(state_of(small), SPEC, after)
    autograd = gradients(from_tensors(after, tensors.parameters))
    for name, gradient in before.items():
        assert (autograd[name] - gradient).abs().max() < 1e-12, name
    assert set(tensors.moments) == set(before)
    new = [name for name in tensors.parameters if name not in before]
    assert all(name.startswith(("transformer.h.2.", "transformer.h.3.", "transformer.h.4.")) for name in new)
    assert torch.equal(tensors.parameters["transformer.h.4.ln_1.weight"], tensors.parameters["transformer.h.0.ln_1.weight"])
    assert all(not tensors.parameters[name].any() for name in new if ".c_proj." in name)
    assert any(autograd[name].abs().max() > 0 for name in new if name.endswith("c_proj.weight"))


def test_new_layers_and_copied_channels_learn_different_things() -> None:
    after = dataclasses.replace(SPEC, d_model=32)
    copies = {}
    for noise in (0.0, 0.5):
        tensors = grow(state_of(shaken(SPEC)), SPEC, after, noise_scale=noise, seed=1)
        trainee = from_tensors(after, tensors.parameters)
        optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-2)
        for i in range(20):
            inputs, targets = batch(after, seed=i)
            (trainee(inputs, targets) / targets.numel()).backward()
            optimizer.step()
            optimizer.zero_grad()
        weight = parameters_of(trainee)["transformer.wte.weight"]
        copies[noise] = float((weight[:, :16] - weight[:, 16:]).abs().max())
    assert copies[0.0] < 1e-9
    assert copies[0.5] > 1e-2


def test_noise_is_seeded_and_the_input_is_untouched() -> None:
    small, after = shaken(SPEC), dataclasses.replace(SPEC, d_model=32)
    state = state_of(small)
    kept = {name: p.clone() for name, p in state.parameters.items()}
    first, again, other = (grow(state, SPEC, after, noise_scale=0.5, seed=seed).parameters for seed in (1, 1, 2))
    name = "transformer.h.0.mlp.c_fc.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert all(torch.equal(kept[n], state.parameters[n]) for n in kept)


def test_width_twice_equals_width_by_four() -> None:
    small = shaken(SPEC)
    double, fourfold = (dataclasses.replace(SPEC, d_model=SPEC.d_model * k) for k in (2, 4))
    twice = grow(grow(state_of(small), SPEC, double), double, fourfold)
    once = grow(state_of(small), SPEC, fourfold)
    for name, value in once.parameters.items():
        assert torch.allclose(twice.parameters[name], value, rtol=0, atol=1e-15), name
        assert torch.allclose(twice.moments[name].exp_avg, once.moments[name].exp_avg, rtol=0, atol=1e-15), name


@pytest.mark.parametrize("factor", [2, 3])
def test_with_scaled_rates_the_grown_run_repeats_the_small_one(factor: int) -> None:
    """lr / K, weight decay x K where the parameter is divided by K; eps / K where the moments are."""
    small, after = shaken(SPEC), dataclasses.replace(SPEC, d_model=SPEC.d_model * factor)
    optimizer = torch.optim.AdamW(_groups(small, 1, 1.0), betas=(0.9, 0.95))
    _train(small, optimizer, range(10))
    tensors = grow(read_tensors(small.model, optimizer), SPEC, after)
    grown = from_tensors(after, tensors.parameters)
    grown_optimizer = torch.optim.AdamW(_groups(grown, factor, float(factor)), betas=(0.9, 0.95))
    write_tensors(tensors, grown.model, grown_optimizer)
    losses = _train(small, optimizer, range(10, 50))
    assert _train(grown, grown_optimizer, range(10, 50)) == pytest.approx(losses, abs=1e-10)


def _groups(trainee: Trainee, factor: int, moments_divided_by: float) -> list[dict[str, object]]:
    axes = get_family(trainee.spec.family).axes
    groups = []
    for name, p in trainee.model.named_parameters():
        kind = axes.lookup(name).kind
        divided = kind in ("matrix", "head_vector", "head_matrix")
        eps = 1e-8 / (1.0 if kind in ("head_vector", "head_matrix") else moments_divided_by)
        lr = 1e-2 / factor if divided else 1e-2
        groups.append({"params": [p], "lr": lr, "weight_decay": 0.1 * (factor if divided else 1), "eps": eps})
    return groups


def _train(trainee: Trainee, optimizer: torch.optim.AdamW, steps: range) -> list[float]:
    losses = []
    for i in steps:
        inputs, targets = batch(trainee.spec, seed=100 + i)
        loss = trainee(inputs, targets) / targets.numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_moments_travel_through_the_optimizer_of_training() -> None:
    after = dataclasses.replace(SPEC, n_layer=3, d_model=32)
    small = shaken(SPEC)
    optimizer = make_optimizer(small.model, Optimizer(lr=1e-3))
    _train(small, optimizer, range(3))
    tensors = grow(read_tensors(small.model, optimizer), SPEC, after)
    grown = from_tensors(after, tensors.parameters)
    grown_optimizer = make_optimizer(grown.model, Optimizer(lr=1e-3))
    write_tensors(tensors, grown.model, grown_optimizer)
    back = read_tensors(grown.model, grown_optimizer)
    assert back.moments["transformer.wte.weight"].step == 3
    assert "transformer.h.2.ln_1.weight" not in back.moments
    _train(grown, grown_optimizer, range(1))
    steps = {name: int(m.step) for name, m in read_tensors(grown.model, grown_optimizer).moments.items()}
    assert steps["transformer.h.0.ln_1.weight"] == 4
    assert steps["transformer.h.2.ln_1.weight"] == 1


@pytest.mark.parametrize(
    "after",
    [
        dataclasses.replace(SPEC, n_layer=1),
        dataclasses.replace(SPEC, d_model=24),
        dataclasses.replace(SPEC, d_model=8),
        dataclasses.replace(SPEC, vocab_size=65),
    ],
)
def test_what_is_no_growth_is_refused(after: ModelSpec) -> None:
    with pytest.raises(ValueError, match=r"layers can only be added|whole multiple|alone"):
        grow(state_of(shaken(SPEC)), SPEC, after)
