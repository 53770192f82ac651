"""One tensor through the maps of its axes: values, and the optimizer's means of gradients and of their squares."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from raystage.growth.axis_map import AxisMap, Piece, Rest
from raystage.growth.optimizer_state import Meaning

Maps = Sequence[AxisMap]


def grow_value(value: Tensor, maps: Maps) -> Tensor:
    """A parameter of shape (old_size of each map) at the new sizes."""
    return _expand(value, maps, [m.value for m in maps], None)


def grow_state(state: Tensor, maps: Maps, meaning: Meaning) -> Tensor:
    """One tensor of a parameter's optimizer state; `maps` are the parameter's.

    Channels that copy nothing start with an empty mean of gradients and the average of the squares, so that their
    first steps are of ordinary size.
    """
    if meaning == "count":
        return state.clone()
    if meaning == "linear":
        return _expand(state, maps, [m.gradient for m in maps], "zero")
    if meaning == "row_square":
        maps = [*maps[:-1], _averaged(maps[-1])]
    if meaning == "column_square":
        maps = [*maps[:-2], _averaged(maps[-2]), maps[-1]]
    return _expand(state, maps, [m.gradient.square() for m in maps], "mean")


def block(tensor: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """The view of `tensor` from `starts`, `lengths` long."""
    return tensor[tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))]


def pieces_of(m: AxisMap, rest_value: Rest | None) -> tuple[Piece, ...]:
    """The pieces of an axis and, for what they leave over, one more: copies, or the channel added at the old end."""
    if not m.rest:
        return m.pieces
    start, copy = m.new_size - m.rest, len(m.pieces)
    if (rest_value or m.rest_value) == "copy":
        return (*m.pieces, Piece(0, start, m.rest, copy))
    return (*m.pieces, Piece(m.old_size, start, m.rest, copy, old_length=1))


def _expand(tensor: Tensor, maps: Maps, factors: Sequence[Tensor], rest_value: Rest | None) -> Tensor:
    """Writes every block of the result once; what is made beside it has the old size."""
    source = _scaled(tensor, factors)
    for dim, m in enumerate(maps):
        source = _with_rest(source, dim, m, rest_value)
    grown = tensor.new_empty([m.new_size for m in maps])
    for pieces in itertools.product(*(pieces_of(m, rest_value) for m in maps)):
        target = block(grown, [p.new for p in pieces], [p.length for p in pieces])
        target.copy_(block(source, [p.old for p in pieces], [p.old_length or p.length for p in pieces]))
    return grown


def _scaled(tensor: Tensor, factors: Sequence[Tensor]) -> Tensor:
    scale = 1.0
    for dim, by_channel in enumerate(factors):
        if by_channel.numel() == 1:
            scale *= float(by_channel)
        else:
            shape = [-1 if d == dim else 1 for d in range(tensor.dim())]
            tensor = tensor * by_channel.to(tensor.device, tensor.dtype).reshape(shape)
    return tensor if scale == 1 else tensor * scale


def _with_rest(tensor: Tensor, dim: int, m: AxisMap, rest_value: Rest | None) -> Tensor:
    kind = rest_value or m.rest_value
    if not m.rest or kind == "copy":
        return tensor
    mean = tensor.mean(dim, keepdim=True)
    return torch.cat([tensor, mean if kind == "mean" else torch.zeros_like(mean)], dim)


def _averaged(m: AxisMap) -> AxisMap:
    """The map of an axis over which a state has been averaged: one channel, and the axis's mean squared factor."""
    one = torch.ones(1, dtype=torch.float64)
    return AxisMap(1, 1, (Piece(0, 0, 1, first=0),), one, one * m.mean_square_gradient() ** 0.5)
