"""Small networks in float64 for growth tests, shaken off their special initial values."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystage.growth import TrainingTensors
from raystage.models.family import build_model
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee

GPT2 = ModelSpec(
    family="gpt2",
    vocab_size=64,
    context_length=16,
    n_layer=2,
    d_model=16,
    n_head=2,
    n_kv_head=2,
    head_dim=8,
    d_ff=24,
    tied=True,
    rope_theta=None,
    dropout=0.0,
    eot_id=0,
)
LLAMA = dataclasses.replace(GPT2, family="llama", n_head=4, n_kv_head=2, head_dim=4, rope_theta=10000.0)
SPECS = {
    "gpt2": GPT2,
    "gpt2 untied": dataclasses.replace(GPT2, tied=False),
    "llama": dataclasses.replace(LLAMA, tied=False),
    "llama tied": LLAMA,
    "qwen3": dataclasses.replace(LLAMA, family="qwen3", tied=False),
    "qwen3 tied": dataclasses.replace(LLAMA, family="qwen3"),
}


class Float64RMSNorm(nn.Module):
    """The classes compute their norms in float32 whatever the dtype, which hides what is exact."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def network(spec: ModelSpec, seed: int = 0) -> Trainee:
    """A float64 network with norms in float64."""
    model = build_model(spec, seed).double()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(module, name, Float64RMSNorm(child.weight, child.variance_epsilon))
    return Trainee(model, spec)


def widened(spec: ModelSpec, factor: int, **sizes: int) -> ModelSpec:
    """All of hidden size, heads and FFN units times `factor`."""
    keys = ("d_model", "n_head", "n_kv_head", "d_ff")
    return dataclasses.replace(spec, **{**{key: factor * getattr(spec, key) for key in keys}, **sizes})


def shaken(spec: ModelSpec, seed: int = 0) -> Trainee:
    """A float64 network whose norms and biases are not ones and zeros."""
    trainee = network(spec, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in trainee.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return trainee


def from_tensors(spec: ModelSpec, parameters: dict[str, Tensor]) -> Trainee:
    """A float64 network with these parameters."""
    trainee = network(spec)
    named = dict(trainee.model.named_parameters())
    assert set(named) == set(parameters)
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(parameters[name])
    return trainee


def parameters_of(trainee: Trainee) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainee.model.named_parameters()}


def batch(spec: ModelSpec, seed: int = 5, rows: int = 3) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, spec.vocab_size, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :-1], tokens[:, 1:]


def logits(trainee: Trainee, seed: int = 5) -> Tensor:
    with torch.no_grad():
        return trainee.model(batch(trainee.spec, seed)[0]).logits


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-6))


def gradients(trainee: Trainee, seed: int = 5) -> dict[str, Tensor]:
    """Gradients of the mean loss on one batch."""
    inputs, targets = batch(trainee.spec, seed)
    trainee.zero_grad()
    (trainee(inputs, targets) / targets.numel()).backward()
    return {name: p.grad.detach().clone() for name, p in trainee.model.named_parameters() if p.grad is not None}


def adam_states(gradient: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Moments that are a gradient and its square, so that growing them shows the map of gradients."""
    return {name: {"step": torch.tensor(7.0), "exp_avg": g, "exp_avg_sq": g.square()} for name, g in gradient.items()}


def state_of(trainee: Trainee) -> TrainingTensors:
    return TrainingTensors(parameters_of(trainee), adam_states(gradients(trainee)))


def train_model(model: Any, optimizer: torch.optim.Optimizer, spec: ModelSpec, n_steps: int = 3) -> list[float]:
    """Steps of a transformers model on the made batches, in a loop of one's own; its losses."""
    losses = []
    for i in range(n_steps):
        inputs, targets = batch(spec, seed=i)
        loss = F.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses
