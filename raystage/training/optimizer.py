"""The optimizer, its state by parameter name, and back."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from raystage.config.schema import Optimizer
from raystage.growth.tensors import TrainingTensors

Place = Callable[[Tensor], Tensor]  # where a part of the state goes

_CLASSES: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "adafactor": torch.optim.Adafactor}


def optimizer_class(kind: str) -> str:
    """The class name of torch's optimizer, by which its state is known."""
    return str(_CLASSES[kind].__name__)


def make_optimizer(model: nn.Module, settings: Optimizer, lazy: bool = False) -> torch.optim.Optimizer:
    """torch's optimizer with weight decay on matrices alone (norms and biases have one dimension).

    `lazy`: for a device whose programs should hold the step count too, or each step would be another program.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    options: dict[str, dict[str, Any]] = {
        "adamw": {"betas": (settings.beta1, settings.beta2), "eps": settings.eps, "fused": not lazy, "capturable": lazy},
        "sgd": {"momentum": settings.beta1},
        "adafactor": {},
    }
    return cast(torch.optim.Optimizer, _CLASSES[settings.kind](groups, lr=settings.lr, **options[settings.kind]))


def begin_states(model: nn.Module, optimizer: torch.optim.Optimizer, place: Place) -> None:
    """The state before a first step, all zero, which AdamW and SGD would make in that step: a program that differs from all later ones."""
    fields = {"AdamW": ("exp_avg", "exp_avg_sq"), "SGD": ("momentum_buffer",) if optimizer.defaults.get("momentum") else ()}
    for p in model.parameters():
        if not optimizer.state.get(p) and (names := fields[type(optimizer).__name__]):
            state = {name: place(torch.zeros(p.shape)) for name in names}
            optimizer.state[p] = state | ({"step": place(torch.zeros(()))} if "exp_avg" in state else {})


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step, for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def read_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingTensors:
    """Parameters and optimizer state by name, not copied. Parameters never stepped have no state."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    states = {}
    for name, p in model.named_parameters():
        fields = {field: value for field, value in optimizer.state.get(p, {}).items() if isinstance(value, Tensor)}
        if fields:
            states[name] = fields
    return TrainingTensors(parameters, states, type(optimizer).__name__)


def put_states(tensors: TrainingTensors, model: nn.Module, optimizer: torch.optim.Optimizer, place: Place) -> None:
    """Gives the optimizer the states, which become its own, each where `place` puts it."""
    assert not tensors.states or tensors.optimizer == type(optimizer).__name__
    for name, p in model.named_parameters():
        if name in tensors.states:
            optimizer.state[p] = {field: place(value) for field, value in tensors.states[name].items()}


def largest_second_moment(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """The largest entry of Adam's second moments, a scalar on the device, the same on every rank; None before the first step, and for
    other optimizers."""
    # in the order of the parameters, whatever the order that their states came in: where programs are compiled, one for both
    states = [optimizer.state.get(p, {}) for group in optimizer.param_groups for p in group["params"]]
    moments = [state["exp_avg_sq"] for state in states if "exp_avg_sq" in state]
    if not moments:
        return None
    mine = [moment.to_local() if isinstance(moment, DTensor) else moment for moment in moments]
    # a rank may have nothing of a short tensor; none is below 0, and the norm of largest entries takes 40 times as long on a CPU; XLA's
    # amax wants a dimension
    largest = torch.stack([moment.flatten().amax(0) for moment in mine if moment.numel()] or [mine[0].new_zeros(())]).amax(0)
    if isinstance(moments[0], DTensor):
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=moments[0].device_mesh.get_group())
    return largest
