"""Training states to grow: GPT-2 with AdamW's state in float32, and the target of twice the depth and twice the width."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from raystage.growth import Method, TrainingTensors, grow
from raystage.models.family import build_model
from raystage.models.spec import ModelSpec

GPT2_124M = ModelSpec(
    family="gpt2",
    vocab_size=50304,
    context_length=1024,
    n_layer=12,
    d_model=768,
    n_head=12,
    n_kv_head=12,
    head_dim=64,
    d_ff=3072,
    tied=True,
    rope_theta=None,
    dropout=0.0,
    eot_id=0,
)


def doubled(spec: ModelSpec) -> ModelSpec:
    """Twice the layers, and twice the channels, heads and feed-forward units."""
    keys = ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff")
    return dataclasses.replace(spec, **{key: 2 * getattr(spec, key) for key in keys})


def training_state(spec: ModelSpec) -> TrainingTensors:
    """Fresh parameters, and a state for each as AdamW would have it."""
    parameters = {name: p.detach() for name, p in build_model(spec, 0).named_parameters()}
    states = {name: {"step": torch.tensor(1.0), "exp_avg": p.clone(), "exp_avg_sq": p.square()} for name, p in parameters.items()}
    return TrainingTensors(parameters, states)


def grow_double(state: TrainingTensors, spec: ModelSpec) -> TrainingTensors:
    """Depth and width at once, noise on: the defaults of Method."""
    return grow(state, spec, doubled(spec), Method())


def tensors_of(state: TrainingTensors) -> Iterator[Tensor]:
    """Parameters first, then optimizer state."""
    yield from state.parameters.values()
    for fields in state.states.values():
        yield from fields.values()
