"""What every family and every growth must hold, on shapes drawn at random, in float64 (DESIGN 5)."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from raystage.growth import Method, TrainingTensors, grow
from raystage.models.family import build_model
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from tests.growth import shapes
from tests.growth.networks import SPECS, batch, difference, from_tensors, gradients, logits, shaken, state_of, widened

many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
EXACT = 1e-12
every_family = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


@many
@given(st.data())
def test_the_function_is_kept(data: st.DataObject) -> None:
    spec = data.draw(shapes.small_specs())
    after, method = data.draw(shapes.larger(spec)), data.draw(shapes.preserving)
    small = shaken(spec)
    grown = from_tensors(after, grow(state_of(small), spec, after, method).parameters)
    assert method.preserves(spec, after)
    assert difference(logits(grown), logits(small)) < EXACT


@many
@given(st.data())
def test_whole_multiples_map_gradients_and_so_moments(data: st.DataObject) -> None:
    spec = data.draw(shapes.small_specs(min_layers=1))
    factor, more = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3))
    method = dataclasses.replace(data.draw(shapes.preserving), noise_scale=0.0)
    after = widened(spec, factor, n_layer=spec.n_layer + more)
    tensors = grow(state_of(shaken(spec)), spec, after, method)
    autograd = gradients(from_tensors(after, tensors.parameters))
    assert len(tensors.states) == len(state_of(shaken(spec)).states)
    for name, state in tensors.states.items():
        assert difference(state["exp_avg"], autograd[name]) < 1e-10, name
        assert difference(state["exp_avg_sq"], autograd[name].square()) < 1e-10, name
        assert state["step"] == 7.0


@many
@given(st.data())
def test_heads_and_units_alone_map_gradients_at_any_number(data: st.DataObject) -> None:
    """No norm looks across them, so fractions are as exact as multiples; groups of query heads keep their size here."""
    spec = data.draw(shapes.small_specs(min_layers=1).filter(lambda spec: spec.family == "qwen3"))
    n_kv_head = spec.n_kv_head + data.draw(st.integers(0, 4))
    n_head = n_kv_head * spec.n_head // spec.n_kv_head
    after = dataclasses.replace(spec, n_kv_head=n_kv_head, n_head=n_head, d_ff=spec.d_ff + data.draw(st.integers(0, 30)))
    tensors = grow(state_of(shaken(spec)), spec, after, Method(noise_scale=0.0))
    autograd = gradients(from_tensors(after, tensors.parameters))
    for name, state in tensors.states.items():
        assert difference(state["exp_avg"], autograd[name]) < 1e-10, name


@many
@given(st.data())
def test_the_input_is_untouched_and_shares_no_memory(data: st.DataObject) -> None:
    spec = data.draw(shapes.small_specs())
    after, method = data.draw(shapes.larger(spec)), data.draw(shapes.preserving)
    state = state_of(shaken(spec))
    kept = {name: p.clone() for name, p in state.parameters.items()}
    grown = grow(state, spec, after, method)
    old = {t.untyped_storage().data_ptr() for t in all_tensors(state)}
    assert all(t.untyped_storage().data_ptr() not in old for t in all_tensors(grown) if t.numel())
    assert all(torch.equal(state.parameters[name], p) for name, p in kept.items())


@every_family
def test_twice_is_once_by_the_product(spec: ModelSpec) -> None:
    state, method = state_of(shaken(spec)), Method(noise_scale=0.0)
    double, fourfold = widened(spec, 2, n_layer=4), widened(spec, 4, n_layer=8)
    twice, once = grow(grow(state, spec, double, method), double, fourfold, method), grow(state, spec, fourfold, method)
    assert twice.states.keys() == once.states.keys()
    for name, value in once.parameters.items():
        assert difference(twice.parameters[name], value) < 1e-15, name
    for name, fields in once.states.items():
        assert difference(twice.states[name]["exp_avg"], fields["exp_avg"]) < 1e-15, name


@every_family
def test_float32_classes_as_they_are_keep_their_logits(spec: ModelSpec) -> None:
    """To 1e-5, with the norms that the classes compute in float32."""
    model = build_model(spec, 0)
    state = TrainingTensors({name: p.detach() for name, p in model.named_parameters()})
    small = Trainee(model, spec)
    fraction = dataclasses.replace(spec, d_model=24, n_head=3 if spec.family == "gpt2" else 6, n_kv_head=3, d_ff=30, n_layer=4)
    for after in (widened(spec, 2, n_layer=5), fraction):
        grown = Trainee(build_model(after, 1), after)
        tensors = grow(state, spec, after, Method(seed=4))
        grown.model.load_state_dict(tensors.parameters, strict=False)
        assert difference(logits(grown), logits(small)) < 1e-5


@every_family
@pytest.mark.parametrize("factor", [2, 3])
def test_with_scaled_rates_the_grown_run_repeats_the_small_one(spec: ModelSpec, factor: int) -> None:
    """lr / K and weight decay x K where the parameter is divided by K; eps / K where the moments are. 40 steps, 1e-10."""
    small, after = shaken(spec), widened(spec, factor)
    optimizer = torch.optim.AdamW(rate_groups(small, small), betas=(0.9, 0.95))
    train(small, optimizer, range(10))
    state = TrainingTensors(
        {name: p.detach() for name, p in small.model.named_parameters()},
        {name: dict(optimizer.state[p]) for name, p in small.model.named_parameters()},
    )
    tensors = grow(state, spec, after, Method(noise_scale=0.0))
    grown = from_tensors(after, tensors.parameters)
    grown_optimizer = torch.optim.AdamW(rate_groups(grown, small), betas=(0.9, 0.95))
    for name, p in grown.model.named_parameters():
        grown_optimizer.state[p] = tensors.states[name]
    losses = train(small, optimizer, range(10, 50))
    assert train(grown, grown_optimizer, range(10, 50)) == pytest.approx(losses, abs=1e-10)


def rate_groups(trainee: Trainee, small: Trainee) -> list[dict[str, object]]:
    """Rates by DESIGN 5's table, by parameter names: an account of the scales that owes nothing to the code's own table."""
    factor = trainee.spec.d_model // small.spec.d_model
    groups: list[dict[str, object]] = []
    for name, p in trainee.model.named_parameters():
        is_matrix = p.dim() == 2 and not name.endswith(("wte.weight", "wpe.weight", "embed_tokens.weight"))
        is_last_norm = ".ln_f." in name or name.startswith("model.norm.")
        divided = is_matrix or (is_last_norm and trainee.spec.tied)
        whole_moments = (is_last_norm and trainee.spec.tied) or name == "lm_head.weight" or "q_norm" in name or "k_norm" in name
        groups.append(
            {
                "params": [p],
                "lr": 1e-2 / (factor if divided else 1),
                "weight_decay": 0.1 * (factor if divided else 1),
                "eps": 1e-8 / (1 if whole_moments else factor),
            }
        )
    return groups


def train(trainee: Trainee, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for i in steps:
        inputs, targets = batch(trainee.spec, seed=100 + i)
        loss = trainee(inputs, targets) / targets.numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def all_tensors(state: TrainingTensors) -> list[Tensor]:
    return [*state.parameters.values(), *(t for fields in state.states.values() for t in fields.values())]
