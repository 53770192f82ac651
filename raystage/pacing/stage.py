"""Stages: the shape that training has, the changes between shapes, and the plan that lists them in order."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

ChangeKind = Literal["length", "depth", "width", "both"]

# what a change of each kind sets
CHANGED: dict[ChangeKind, tuple[str, ...]] = {
    "length": ("seq_len_tokens",),
    "depth": ("n_layer",),
    "width": ("d_model",),
    "both": ("n_layer", "d_model"),
}
# what the record of a decision calls it
RECORD_KINDS: dict[ChangeKind, str] = {"length": "raise_seq_len", "depth": "grow_depth", "width": "grow_width", "both": "grow_both"}
_NAMES = ("length", "depth", "width")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sequence length [tokens], depth [layers] and width [channels] of a stage."""

    seq_len_tokens: int
    n_layer: int
    d_model: int

    def after(self, change: "Change") -> "Shape":
        return dataclasses.replace(self, **{key: value for key, value in dataclasses.asdict(change).items() if value is not None})


@dataclasses.dataclass(frozen=True)
class Change:
    """One step of a plan: the new length, the new depth or width, or both of these at once. None: stays."""

    seq_len_tokens: int | None = None
    n_layer: int | None = None
    d_model: int | None = None

    @property
    def kind(self) -> ChangeKind:
        if self.seq_len_tokens is not None:
            return "length"
        if self.d_model is None:
            return "depth"
        return "width" if self.n_layer is None else "both"

    def __str__(self) -> str:
        return " and ".join(f"{name} {value}" for name, value in zip(_NAMES, dataclasses.astuple(self), strict=True) if value is not None)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The first stage's shape and the changes that follow, in order."""

    start: Shape
    changes: tuple[Change, ...]

    def shapes(self) -> list[Shape]:
        """The shape of every stage, if no change is refused."""
        shapes = [self.start]
        for change in self.changes:
            shapes.append(shapes[-1].after(change))
        return shapes


def make_plan(lengths: Sequence[int], depths: Sequence[int], widths: Sequence[int], order: Sequence[ChangeKind] | None = None) -> Plan:
    """A plan through the given values; without an `order`: all lengths, then all depths, then all widths.

    `both` in an order takes the next depth and the next width at once. Raises ValueError when `order` does not take
    each value exactly once.
    """
    remaining = {"seq_len_tokens": list(lengths[1:]), "n_layer": list(depths[1:]), "d_model": list(widths[1:])}
    if order is None:
        order = [*["length"] * len(lengths[1:]), *["depth"] * len(depths[1:]), *["width"] * len(widths[1:])]  # type: ignore[list-item]
    if any(sum(key in CHANGED[kind] for kind in order) != len(values) for key, values in remaining.items()):
        raise ValueError(f"order {list(order)} does not take each value exactly once")
    changes = tuple(Change(**{key: remaining[key].pop(0) for key in CHANGED[kind]}) for kind in order)
    return Plan(Shape(lengths[0], depths[0], widths[0]), changes)
