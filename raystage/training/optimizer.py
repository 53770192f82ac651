"""AdamW, its state by parameter name, and back."""

import torch
from torch import Tensor, nn

from raystage.config.schema import Optimizer
from raystage.growth.tensors import Moments, TrainingTensors


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone (norms and biases have one dimension)."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.AdamW, lr: float) -> None:
    """The rate of the next step, for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def read_tensors(model: nn.Module, optimizer: torch.optim.AdamW) -> TrainingTensors:
    """Parameters and moments by name, not copied. Parameters never stepped have no moments."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    moments = {}
    for name, p in model.named_parameters():
        if state := optimizer.state.get(p):
            moments[name] = Moments(state["exp_avg"], state["exp_avg_sq"], state["step"])
    return TrainingTensors(parameters, moments)


@torch.no_grad()
def write_tensors(tensors: TrainingTensors, model: nn.Module, optimizer: torch.optim.AdamW | None) -> None:
    """Copies parameters, and moments where an optimizer is given. Raises ValueError when names or shapes differ."""
    named = dict(model.named_parameters())
    _check_same(named, tensors.parameters)
    for name, p in named.items():
        p.copy_(tensors.parameters[name])
        if optimizer is not None and (moments := tensors.moments.get(name)):
            optimizer.state[p] = {
                "step": moments.step.detach().clone().to(p.device),
                "exp_avg": moments.exp_avg.detach().clone().to(p.device),
                "exp_avg_sq": moments.exp_avg_sq.detach().clone().to(p.device),
            }


def _check_same(expected: dict[str, nn.Parameter], given: dict[str, Tensor]) -> None:
    missing, extra = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or extra:
        raise ValueError(f"tensors missing: {missing[:3] or 'none'}; not in the model: {extra[:3] or 'none'}")
    for name, p in expected.items():
        if p.shape != given[name].shape:
            raise ValueError(f"{name}: shape {tuple(given[name].shape)}, the model has {tuple(p.shape)}")
