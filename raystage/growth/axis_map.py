"""Index maps: which old channel each new channel of an axis copies, and what that does to values and gradients.

Heads and feed-forward units are copied in a circle, old channel i then c_i times; the residual stream k = floor(D'/D) whole
times, and its remaining channels carry the mean (LayerNorm) or zero (RMSNorm), so that norms see the same numbers (LEMON
2310.07999). The stream is scaled by s = sqrt(D' / kD): its mean square, and with it the effect of a norm's eps, stays what it was.

    role        value       gradient      channels beyond k whole copies
    out         1           1 / c
    in          1 / c       1
    write       s           1 / (k s)     mean or zero
    read        1 / k       1             a copy: what it reads is zero
    gain        1 / s       s / k         a copy: what it multiplies is zero
    bias        1           1 / k         zero
    tied_gain   1 / (k s^2) s^2           a copy
    tied_bias   1 / (k s)   s             zero

A tensor's factors are the products over its axes. At whole multiples s = 1, and the gradient of the grown network is the mapped
gradient of the small one; Adam's moments follow, the second with the squared factor.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from raystage.models.axes import Axis, Role
from raystage.models.count import axis_size
from raystage.models.spec import ModelSpec

Rest = Literal["mean", "zero", "copy"]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of channels that copies a run of old ones. `copy`: how many copies lie before it; `first`: where the first lies,
    None where nothing reads from it, so that noise needs no counterpart. `old_length` 1 with a greater `length` is spread out."""

    old: int
    new: int
    length: int
    copy: int = 0
    first: int | None = None
    old_length: int | None = None


@dataclasses.dataclass(frozen=True)
class AxisMap:
    """`pieces` fill the first `new_size - rest` channels; `value`, `gradient`: factors by old channel, shape (old_size,), or (1,)
    where they are all the same; float64."""

    old_size: int
    new_size: int
    pieces: tuple[Piece, ...]
    value: Tensor
    gradient: Tensor
    rest: int = 0
    rest_value: Rest = "copy"

    def mean_square_gradient(self) -> float:
        """The squared gradient factor, averaged over the new channels."""
        weights = torch.zeros(self.old_size, dtype=torch.float64)
        for piece in self.pieces:
            weights[piece.old : piece.old + piece.length] += 1
        return float((weights * self.gradient.square()).sum() / weights.sum())


def map_axis(axis: Axis, before: ModelSpec, after: ModelSpec, norm: Literal["layer", "rms"]) -> AxisMap:
    """The map of one axis between two sizes of a model. Sections map each by itself."""
    old_size, new_size = axis_size(axis, before), axis_size(axis, after)
    if axis.dimension == "embed":
        return _stream_map(axis.role, old_size, new_size, norm)
    if axis.role == "fixed":  # a longer table of positions has been made before (position.py)
        return AxisMap(new_size, new_size, (Piece(0, 0, new_size, first=0),), *torch.ones(2, 1, dtype=torch.float64))
    index, unit = _units(axis, before, after)
    counts = torch.bincount(torch.tensor(index), minlength=old_size // unit // axis.sections).double()
    is_even = bool((counts == counts[0]).all())
    share = 1.0 / counts[:1] if is_even else (1.0 / counts).repeat_interleave(unit).repeat(axis.sections)
    one = torch.ones(1, dtype=torch.float64)
    value, gradient = {"out": (one, share), "in": (share, one)}[axis.role]
    pieces = _sectioned(_runs(index, unit), axis.sections, old_size // axis.sections, new_size // axis.sections)
    return AxisMap(old_size, new_size, pieces, value, gradient)


def _stream_map(role: Role, old_size: int, new_size: int, norm: Literal["layer", "rms"]) -> AxisMap:
    k, rest = divmod(new_size, old_size)
    s = math.sqrt(new_size / (k * old_size))
    factors = {
        "write": (s, 1 / (k * s)),
        "read": (1 / k, 1.0),
        "gain": (1 / s, s / k),
        "bias": (1.0, 1 / k),
        "tied_gain": (1 / (k * s * s), s * s),
        "tied_bias": (1 / (k * s), s),
    }
    value, gradient = (torch.tensor([factor], dtype=torch.float64) for factor in factors[role])
    pieces = tuple(Piece(0, i * old_size, old_size, copy=i, first=0) for i in range(k))
    rest_value: Rest = "copy" if role in ("read", "gain", "tied_gain") else "zero"
    if role == "write" and norm == "layer":
        rest_value = "mean"
    return AxisMap(old_size, new_size, pieces, value, gradient, rest, rest_value)


def _units(axis: Axis, before: ModelSpec, after: ModelSpec) -> tuple[list[int], int]:
    """For each new unit the old one it copies, and the channels of a unit."""
    if axis.dimension == "heads":
        return query_head_index(before, after), before.head_dim
    if axis.dimension == "kv_heads":
        return _circle(before.n_kv_head, after.n_kv_head), before.head_dim
    return _circle(axis_size(axis, before) // axis.sections, axis_size(axis, after) // axis.sections), 1


def query_head_index(before: ModelSpec, after: ModelSpec) -> list[int]:
    """For each new query head the old one it copies: one that read from the same key-value head.

    The copies of a key-value head deal out its old group of query heads in a circle, so that the group's
    size may change as long as every old query head is dealt.
    """
    group, new_group = before.n_head // before.n_kv_head, after.n_head // after.n_kv_head
    index = []
    for kv_head in range(after.n_kv_head):
        copy, source = divmod(kv_head, before.n_kv_head)
        index += [source * group + (copy * new_group + i) % group for i in range(new_group)]
    return index


def _circle(old: int, new: int) -> list[int]:
    return [i % old for i in range(new)]


def _runs(index: Sequence[int], unit: int) -> list[Piece]:
    """The index as runs of consecutive units, in channels: a new run where the old unit, its copy or its first place jumps."""
    first: dict[int, int] = {}
    seen: Counter[int] = Counter()
    units = []
    for new, old in enumerate(index):
        units.append((old, seen[old], first.setdefault(old, new)))
        seen[old] += 1
    starts = [i for i, (old, copy, place) in enumerate(units) if i == 0 or units[i - 1] != (old - 1, copy, place - 1)]
    pieces = []
    for start, stop in zip(starts, [*starts[1:], len(units)], strict=True):
        old, copy, place = units[start]
        pieces.append(Piece(old * unit, start * unit, (stop - start) * unit, copy, place * unit))
    return pieces


def _sectioned(pieces: list[Piece], sections: int, old: int, new: int) -> tuple[Piece, ...]:
    return tuple(
        dataclasses.replace(piece, old=piece.old + i * old, new=piece.new + i * new, first=(piece.first or 0) + i * new)
        for i in range(sections)
        for piece in pieces
    )
