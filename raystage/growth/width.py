"""Width by a whole factor K: heads and FFN units multiplied, the head dimension fixed, the function unchanged.

Every axis of a growing dimension is tiled K times. What the tiling does to values and moments follows
from what a parameter is (DESIGN 5; Net2Net 1511.05641, staged training 2203.06211):

    kind                     value   exp_avg   exp_avg_sq
    matrix                   / K     / K       / K^2
    embedding, vector        x 1     / K       / K^2
    head_vector, head_matrix / K     x 1       x 1
"""

import torch
from torch import Tensor

from raystage.growth.tensors import Moments, TrainingTensors
from raystage.models.axes import Axis, AxisTable, Parameter

GROWING = ("embed", "heads", "ffn")


def grow_width(state: TrainingTensors, axes: AxisTable, factor: int, noise_scale: float, generator: torch.Generator) -> TrainingTensors:
    """`state` with `factor` times the channels, heads and FFN units. `noise_scale` 0 keeps the copies equal for ever.

    Raises ValueError for a factor below 1 and KeyError for a parameter without axes.
    """
    if factor < 1:
        raise ValueError(f"width factor {factor}: must be at least 1")
    parameters, moments = {}, {}
    for name, value in state.parameters.items():
        parameter = axes.lookup(name)
        grown = _tile(value, parameter, factor) * _value_scale(parameter, factor)
        if parameter.kind == "matrix" and noise_scale > 0:
            grown = grown + _cancelling_noise(grown, parameter, factor, noise_scale, generator)
        parameters[name] = grown
        if name in state.moments:
            moments[name] = _grow_moments(state.moments[name], parameter, factor)
    return TrainingTensors(parameters, moments)


def _grow_moments(moments: Moments, parameter: Parameter, factor: int) -> Moments:
    scale = 1.0 if parameter.kind in ("head_vector", "head_matrix") else 1.0 / factor
    return Moments(
        exp_avg=_tile(moments.exp_avg, parameter, factor) * scale,
        exp_avg_sq=_tile(moments.exp_avg_sq, parameter, factor) * scale**2,
        step=moments.step.clone(),
    )


def _value_scale(parameter: Parameter, factor: int) -> float:
    return 1.0 / factor if parameter.kind in ("matrix", "head_matrix", "head_vector") else 1.0


def _tile(tensor: Tensor, parameter: Parameter, factor: int) -> Tensor:
    for dim, axis in enumerate(parameter.axes):
        if axis.dimension in GROWING:
            tensor = tensor.index_select(dim, tile_index(axis, tensor.shape[dim], factor).to(tensor.device))
    return tensor


def tile_index(axis: Axis, size: int, factor: int) -> Tensor:
    """For each new position of the axis, the old one it copies; shape (size * factor,). Sections grow each by itself."""
    return torch.arange(size).reshape(axis.sections, -1).repeat(1, factor).reshape(-1)


def _cancelling_noise(grown: Tensor, parameter: Parameter, factor: int, noise_scale: float, generator: torch.Generator) -> Tensor:
    """Noise that sums to zero over the copies of each input, so that equal inputs give the same output as before.

    Gradients then differ between the copies, which is what lets them learn different things.
    """
    dim = next(i for i, axis in enumerate(parameter.axes) if axis.role == "in")
    std = noise_scale * grown.square().mean().sqrt()
    noise = torch.randn(grown.shape, generator=generator, dtype=grown.dtype).to(grown.device) * std
    copies = noise.unflatten(dim, (factor, -1))
    return (copies - copies.mean(dim, keepdim=True)).flatten(dim, dim + 1)
