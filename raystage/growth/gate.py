"""The gate: does a grown model say what the small one said?"""

import math

import torch

from raystage.growth.errors import GrowthError

# relative; what rounding of the weights alone moves the loss or the logits by, with room to spare (docs/defaults.md)
_TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def tolerance_of(dtype: torch.dtype) -> float:
    """Relative difference that a preserving growth of weights of this type may show. Raises GrowthError for types that round
    more than any gate could tell from damage."""
    if dtype not in _TOLERANCES:
        known = ", ".join(str(known).removeprefix("torch.") for known in _TOLERANCES)
        raise GrowthError(f"weights in {str(dtype).removeprefix('torch.')}: too coarse to check that growth kept the function; use {known}")
    return _TOLERANCES[dtype]


def holds(before: float, after: float, tolerance: float, preserving: bool) -> bool:
    """Whether the probe's loss stayed. A growth that does not claim to preserve it only has to leave it a number."""
    # not (a > b), so that a loss that is not a number does not pass
    return abs(after - before) <= tolerance * abs(before) if preserving else math.isfinite(after)
