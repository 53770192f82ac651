"""Depth: which old layer a new one comes from.

Sources: Gong et al. 2019 (stacking), Chang et al. 1710.10348 (interleaving), G_stack 2405.15319 (copies), LEMON 2310.07999
(zero output projections), 2511.04981 (from zero and one layer).
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Layer:
    """`source`: the old layer that it is or copies, None where there was none; `is_new`: it was not there before."""

    source: int | None
    is_new: bool


def layers_after(n_before: int, n_after: int, placement: Literal["stack", "interleave"]) -> list[Layer]:
    """The layers of the grown model, first to last. stack: the old ones, then the old ones again, and so on;
    interleave: each old layer, then its copies."""
    if n_before == 0:
        return [Layer(None, True)] * n_after
    if placement == "stack":
        return [Layer(i % n_before, i >= n_before) for i in range(n_after)]
    sources = [i * n_before // n_after for i in range(n_after)]
    return [Layer(source, i > 0 and sources[i - 1] == source) for i, source in enumerate(sources)]
