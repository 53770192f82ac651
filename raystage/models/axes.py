"""Axes: what each dimension of a parameter means, so that growth never needs a parameter's name."""

import dataclasses
import re
from typing import Literal

Dimension = Literal["embed", "heads", "ffn", "vocab", "position"]
Role = Literal["out", "in", "table"]
Kind = Literal["matrix", "embedding", "vector", "head_vector", "head_matrix"]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One dimension of a tensor. `sections`: equal parts stacked along it that grow each by itself (q, k and v)."""

    dimension: Dimension
    role: Role = "out"
    sections: int = 1


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The axes of a parameter, in tensor order, and what it is.

    `vector`: norm gains, norm biases and biases; `head_vector`: the same of the norm that feeds a tied head;
    `head_matrix`: an untied head. `output_projection`: writes into the residual stream, so that zero
    switches its block off.
    """

    kind: Kind
    axes: tuple[Axis, ...]
    output_projection: bool = False


@dataclasses.dataclass(frozen=True)
class AxisTable:
    """Parameters of a family by name; those of block i are named `block_prefix.format(i) + suffix`."""

    block_prefix: str
    block: dict[str, Parameter]
    outside: dict[str, Parameter]

    def split(self, name: str) -> tuple[int | None, str]:
        """The block that a parameter is in (None: outside the blocks) and the rest of its name."""
        pattern = re.escape(self.block_prefix).replace(r"\{\}", r"(\d+)")
        match = re.match(pattern, name)
        return (int(match.group(1)), name[match.end() :]) if match else (None, name)

    def lookup(self, name: str) -> Parameter:
        """Raises KeyError for a parameter that the family's table does not know."""
        block, rest = self.split(name)
        table = self.outside if block is None else self.block
        if rest not in table:
            raise KeyError(f"parameter {name!r} is not in the family's table of axes")
        return table[rest]
