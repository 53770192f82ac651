"""How much compute a loss takes: by a curve at a constant rate, or by the ends of runs with several budgets. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_NEIGHBOURS = 2  # validations on either side that a smoothed one is the mean of
_WINDOW = 1.25  # a line is fitted from a place over this factor to it times this factor
_MIN_POINTS = 4

Bound = Literal["", "at least", "at most"]
OTHER_WAY: Mapping[Bound, Bound] = {"": "", "at least": "at most", "at most": "at least"}


@dataclasses.dataclass(frozen=True)
class Curve:
    """`x`: FLOPs or tokens, rising, and the validation loss [nats a token] there, shape (n,) each."""

    x: NDArray[np.float64]
    losses: NDArray[np.float64]


def smoothed(curve: Curve) -> Curve:
    """Each loss and its place as the means over it and its neighbours, fewer at the ends so that the middles stay where they are."""
    n = len(curve.x)
    widths = np.minimum(_NEIGHBOURS, np.minimum(np.arange(n), n - 1 - np.arange(n)))
    parts = [slice(i - w, i + w + 1) for i, w in enumerate(widths)]
    return Curve(np.array([curve.x[part].mean() for part in parts]), np.array([curve.losses[part].mean() for part in parts]))


def loss_at(curve: Curve, flops: float) -> float | None:
    """The loss of a curve near `flops`, on a line of log(loss) over log(flops) through the validations around; None where these are few."""
    line = _line_around(curve, flops)
    return None if line is None else float(np.exp(line[1] + line[0] * np.log(flops)))


def compute_for(curve: Curve, loss: float) -> tuple[float, Bound]:
    """The compute at which a curve has this loss, on such a line around its first crossing; beyond its ends the nearest is a bound.

    A first crossing alone would be early: of many noisy validations one is always lower than the curve is. Where the line is so flat that
    it has the loss outside of the window it was fitted in, it knows no better.
    """
    even = smoothed(curve)
    if even.losses[0] <= loss:
        return float(curve.x[0]), "" if even.losses[0] == loss else "at most"
    crossing = _first_crossing(even, loss)
    if crossing is None:
        return float(curve.x[-1]), "at least"
    line = _line_around(curve, crossing)
    if line is None or line[0] >= 0:
        return crossing, ""
    at = float(np.exp((np.log(loss) - line[1]) / line[0]))
    return (at if crossing / _WINDOW <= at <= crossing * _WINDOW else crossing), ""


def slope_at(curve: Curve, flops: float) -> float | None:
    """d log(loss) / d log(FLOPs) near `flops`, on such a line."""
    line = _line_around(curve, flops)
    return None if line is None else line[0]


def compute_between(ends: Sequence[tuple[float, float]], loss: float) -> tuple[float, Bound]:
    """The compute for a loss between `ends` (flops, loss) of runs, on straight lines of log(loss) over log(flops).

    Beyond them the nearest end is a bound: of what the baseline takes, "at least" or "at most" that.
    """
    flops, losses = (np.array(column) for column in zip(*sorted(ends), strict=True))
    if loss >= losses[0]:
        return float(flops[0]), "" if loss == losses[0] else "at most"
    found = _first_crossing(Curve(flops, losses), loss)
    return (float(flops[-1]), "at least") if found is None else (found, "")


def _first_crossing(curve: Curve, loss: float) -> float | None:
    below = np.flatnonzero(curve.losses <= loss)
    if not len(below) or below[0] == 0:
        return None
    after = int(below[0])
    high, low = np.log(curve.losses[after - 1]), np.log(curve.losses[after])
    share = float((high - np.log(loss)) / (high - low))
    log_flops = np.log(curve.x[after - 1 : after + 1])
    return float(np.exp(log_flops[0] + share * (log_flops[1] - log_flops[0])))


def _line_around(curve: Curve, flops: float) -> tuple[float, float] | None:
    """Slope and intercept."""
    near = (curve.x >= flops / _WINDOW) & (curve.x <= flops * _WINDOW)
    if near.sum() < _MIN_POINTS:
        return None
    slope, intercept = np.polyfit(np.log(curve.x[near]), np.log(curve.losses[near]), 1)
    return float(slope), float(intercept)
