"""Axes: what each dimension of a parameter means, so that growth never needs a parameter's name."""

import dataclasses
import re
from typing import Literal

Dimension = Literal["embed", "heads", "kv_heads", "ffn", "vocab", "position", "head_dim"]

# What a tensor does along a dimension.
#   heads, kv_heads, ffn:  out: makes the units     in: reads them
#   embed:                 write: adds to the residual stream (embeddings, output projections and their biases)
#                          read: reads the normalized stream (input projections, an untied head)
#                          gain, bias: of a norm    tied_gain, tied_bias: of the norm that feeds a tied head
#   others:                fixed: no growth of width changes it
Role = Literal["out", "in", "write", "read", "gain", "bias", "tied_gain", "tied_bias", "fixed"]

READING: tuple[Role, ...] = ("in", "read")


@dataclasses.dataclass(frozen=True)
class Axis:
    """One dimension of a tensor. `sections`: equal parts stacked along it that grow each by itself (q, k and v)."""

    dimension: Dimension
    role: Role = "fixed"
    sections: int = 1


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The axes of a parameter, in tensor order.

    `output_projection`: writes what a block adds to the residual stream, so that zero switches the block off.
    """

    axes: tuple[Axis, ...]
    output_projection: bool = False


@dataclasses.dataclass(frozen=True)
class AxisTable:
    """Parameters of a family by name; those of block i are named `block_prefix.format(i) + suffix`.

    A model may lack some of them (biases that its configuration switches off). `norm`: LayerNorm subtracts the
    mean of the residual stream, RMSNorm does not.
    """

    block_prefix: str
    block: dict[str, Parameter]
    outside: dict[str, Parameter]
    norm: Literal["layer", "rms"]

    def split(self, name: str) -> tuple[int | None, str]:
        """The block that a parameter is in (None: outside the blocks) and the rest of its name."""
        pattern = re.escape(self.block_prefix).replace(r"\{\}", r"(\d+)")
        match = re.match(pattern, name)
        return (int(match.group(1)), name[match.end() :]) if match else (None, name)

    @property
    def embedding(self) -> str:
        """The name of the token embedding."""
        return next(name for name, p in self.outside.items() if p.axes[0].dimension == "vocab" and p.axes[1].role == "write")

    def lookup(self, name: str) -> Parameter:
        """Raises KeyError for a parameter that the family's table does not know."""
        block, rest = self.split(name)
        table = self.outside if block is None else self.block
        if rest not in table:
            raise KeyError(f"parameter {name!r} is not in the family's table of axes")
        return table[rest]
