"""How to grow: the choices that the sizes leave open."""

import dataclasses
import math
from typing import Literal

import torch

from raystage.growth.errors import GrowthError
from raystage.models.spec import ModelSpec

NOISE_SCALE = 2.0  # measured: docs/growth_bench.md
HALF_PRECISION_NOISE_SCALE = 0.5  # more would be rounded away from what it cancels
_CHOICES = {
    "placement": ("stack", "interleave"),
    "new_layers": ("identity", "copy", "fresh"),
    "positions": ("repeat", "interpolate"),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """`placement`: new layers after the whole stack, or each after the layer it comes from. `new_layers`: copies whose
    output projections are zero (identity), plain copies (copy), or fresh initial values with output projections zero (fresh).

    `noise_scale`: standard deviation, relative to the weights, of the noise that tells copied channels apart;
    0 leaves them equal, None is 2, of weights in half precision 0.5. `positions`: how a table of learned
    positions gets longer. `seed`: of noise and fresh values.
    Raises GrowthError for other values.
    """

    placement: Literal["stack", "interleave"] = "stack"
    new_layers: Literal["identity", "copy", "fresh"] = "identity"
    noise_scale: float | None = None
    positions: Literal["repeat", "interpolate"] = "repeat"
    seed: int = 0

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            if getattr(self, key) not in allowed:
                raise GrowthError(f"{key}={getattr(self, key)!r}: must be one of {', '.join(allowed)}")
        if self.noise_scale is not None and not 0 <= self.noise_scale < math.inf:
            raise GrowthError(f"noise_scale={self.noise_scale}: must be a number of at least 0")

    def noise_for(self, dtype: torch.dtype) -> float:
        """The noise for weights of this type."""
        usual = HALF_PRECISION_NOISE_SCALE if dtype.itemsize < torch.float32.itemsize else NOISE_SCALE
        return usual if self.noise_scale is None else self.noise_scale

    def preserves(self, before: ModelSpec, after: ModelSpec) -> bool:
        """Whether the grown model computes the same function, on sequences of up to the old context."""
        copies = after.n_layer > before.n_layer and self.new_layers == "copy"
        stretched = after.context_length > before.context_length and before.rope_theta is None and self.positions == "interpolate"
        return not copies and not stretched and after.rope_theta == before.rope_theta
