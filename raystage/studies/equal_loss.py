"""How much compute a curve of loss over compute takes for a loss. Pure."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

_NEIGHBOURS = 2  # validations on either side that a smoothed one is the mean of


@dataclasses.dataclass(frozen=True)
class Curve:
    """`flops` rising, and the validation loss [nats a token] there, shape (n,) each."""

    flops: NDArray[np.float64]
    losses: NDArray[np.float64]


def smoothed(curve: Curve, neighbours: int = _NEIGHBOURS) -> Curve:
    """Each loss and its compute as the means over it and its neighbours, fewer at the ends so that the middles stay where they are."""
    n = len(curve.flops)
    widths = np.minimum(neighbours, np.minimum(np.arange(n), n - 1 - np.arange(n)))
    parts = [slice(i - w, i + w + 1) for i, w in enumerate(widths)]
    return Curve(np.array([curve.flops[part].mean() for part in parts]), np.array([curve.losses[part].mean() for part in parts]))


def compute_for(curve: Curve, loss: float) -> float | None:
    """Where the curve first has this loss, on straight lines of log(loss) over log(flops); None where it begins below it or ends above."""
    below = np.flatnonzero(curve.losses <= loss)
    if not len(below) or below[0] == 0:
        return None
    after = int(below[0])
    high, low = np.log(curve.losses[after - 1]), np.log(curve.losses[after])
    share = float((high - np.log(loss)) / (high - low))
    log_flops = np.log(curve.flops[after - 1 : after + 1])
    return float(np.exp(log_flops[0] + share * (log_flops[1] - log_flops[0])))
