"""Stages: the shape that training has, the changes between shapes, and the plan that lists them in order."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

ChangeKind = Literal["length", "depth", "width"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sequence length [tokens], depth [layers] and width [channels] of a stage."""

    seq_len_tokens: int
    n_layer: int
    d_model: int

    def after(self, change: "Change") -> "Shape":
        field = {"length": "seq_len_tokens", "depth": "n_layer", "width": "d_model"}[change.kind]
        return dataclasses.replace(self, **{field: change.to})


@dataclasses.dataclass(frozen=True)
class Change:
    """One step of a plan: the new value of the length, the depth or the width."""

    kind: ChangeKind
    to: int


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

    Raises ValueError when `order` does not name each change exactly once.
    """
    remaining: dict[ChangeKind, list[int]] = {"length": list(lengths[1:]), "depth": list(depths[1:]), "width": list(widths[1:])}
    if order is None:
        order = [kind for kind, values in remaining.items() for _ in values]
    if any(list(order).count(kind) != len(values) for kind, values in remaining.items()):
        raise ValueError(f"order {list(order)} does not name each change exactly once")
    changes = tuple(Change(kind, remaining[kind].pop(0)) for kind in order)
    return Plan(Shape(lengths[0], depths[0], widths[0]), changes)
