"""Small networks in float64 for growth tests, shaken off their special initial values."""

import torch
from torch import Tensor

from raystage.growth import Moments, TrainingTensors
from raystage.models.family import ModelSpec, build_model
from raystage.models.trainee import Trainee

SPEC = ModelSpec(family="gpt2", vocab_size=64, context_length=16, n_layer=2, d_model=16, head_dim=8, dropout=0.0, eot_id=0)


def shaken(spec: ModelSpec, seed: int = 0) -> Trainee:
    """A float64 network whose norms and biases are not ones and zeros."""
    trainee = Trainee(build_model(spec, seed).double(), spec)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in trainee.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return trainee


def from_tensors(spec: ModelSpec, parameters: dict[str, Tensor]) -> Trainee:
    """A float64 network with these parameters."""
    trainee = Trainee(build_model(spec, 0).double(), spec)
    with torch.no_grad():
        for name, p in trainee.model.named_parameters():
            p.copy_(parameters[name])
    return trainee


def parameters_of(trainee: Trainee) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainee.model.named_parameters()}


def batch(spec: ModelSpec, seed: int = 5, rows: int = 3) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, spec.vocab_size, (rows, spec.context_length + 1), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:]


def gradients(trainee: Trainee, seed: int = 5) -> dict[str, Tensor]:
    """Gradients of the mean loss on one batch."""
    inputs, targets = batch(trainee.spec, seed)
    trainee.zero_grad()
    (trainee(inputs, targets) / targets.numel()).backward()
    return {name: p.grad.detach().clone() for name, p in trainee.model.named_parameters() if p.grad is not None}


def as_moments(gradient: dict[str, Tensor]) -> dict[str, Moments]:
    """Moments that are a gradient and its square, so that growing them shows the map of gradients."""
    return {name: Moments(g, g.square(), torch.tensor(7.0)) for name, g in gradient.items()}


def state_of(trainee: Trainee) -> TrainingTensors:
    return TrainingTensors(parameters_of(trainee), as_moments(gradients(trainee)))
