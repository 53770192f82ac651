"""Context: a table of learned positions made longer."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystage.growth.optimizer_state import Meaning


def grow_positions(table_PD: Tensor, length: int, how: Literal["repeat", "interpolate"]) -> Tensor:
    """The table (P, D) with `length` rows. repeat: row i is old row i mod P, so that sequences of up to P tokens see what
    they saw; interpolate: the old rows stretched over the new length (Chen et al. 2306.15595 for learned tables)."""
    if how == "interpolate":
        return F.interpolate(table_PD.T[None], size=length, mode="linear", align_corners=True)[0].T.contiguous()
    return table_PD[torch.arange(length, device=table_PD.device) % len(table_PD)]


def grow_position_state(state: Tensor, length: int, how: Literal["repeat", "interpolate"], meaning: Meaning) -> Tensor:
    """The optimizer's state of such a table, (P, D), or with a dimension averaged to 1. Rows that nothing was learned for
    start with an empty mean of gradients."""
    if meaning == "count" or (meaning == "column_square"):
        return state.clone()
    grown = grow_positions(state, length, how)
    if meaning == "linear" and how == "repeat":
        grown[len(state) :] = 0
    return grown
