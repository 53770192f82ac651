"""Adaptive gradient clipping (AGC; Brock et al., 2102.06171, equation 3): each unit's gradient by its own weights, not all by one norm."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raystage.models.family import get_family
from raystage.models.trainee import Trainee

_LEAST_NORM = 1e-3  # the paper's: weights that begin at zero could not move otherwise


def clip_to_weights_(trainee: Trainee, limit: float) -> None:
    """Scales gradients down where the norm of a unit's is above `limit` times that of its weights (at least 1e-3). In place.

    A unit is one output of a matrix, a row of an embedding, a whole bias or gain. Of the head nothing is clipped, as in the paper, nor of
    the embedding where it is tied to the head.
    """
    for weight, inputs in _units(trainee.model, get_family(trainee.spec.family).head_weight(trainee.model)):
        if weight.grad is not None:
            largest = limit * _norm(weight.detach(), inputs).clamp(min=_LEAST_NORM)
            norm = _norm(weight.grad, inputs)
            # where no more is allowed than there is, by exactly 1; a gradient of zeros stays so
            weight.grad.mul_(largest / torch.maximum(norm, largest))


def _units(model: nn.Module, head: Tensor) -> Iterator[tuple[nn.Parameter, int | None]]:
    """Every parameter but the head's, with the dimension that a unit's weights lie along; None for those of one dimension."""
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if weight is not head:
                # transformers' Conv1D keeps its weight as (in, out)
                yield weight, None if weight.dim() < 2 else 0 if isinstance(module, Conv1D) else 1


def _norm(tensor: Tensor, inputs: int | None) -> Tensor:
    return torch.linalg.vector_norm(tensor) if inputs is None else torch.linalg.vector_norm(tensor, dim=inputs, keepdim=True)
