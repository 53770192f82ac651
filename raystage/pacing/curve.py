"""The loss curve of one stage in bounded memory: bins of steps, halved in number when there are too many."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 192


@dataclasses.dataclass(frozen=True)
class Bin:
    """Means over `n_steps` steps: cumulative tokens, log10 of x (compute, tokens or seconds), loss; and the range of the learning rate."""

    n_steps: int
    tokens_seen: float
    log_x: float
    loss: float
    lr_min: float
    lr_max: float


def merge(a: Bin, b: Bin) -> Bin:
    """One bin in place of two neighbours."""
    n = a.n_steps + b.n_steps

    def mean(x: float, y: float) -> float:
        return (a.n_steps * x + b.n_steps * y) / n

    return Bin(
        n_steps=n,
        tokens_seen=mean(a.tokens_seen, b.tokens_seen),
        log_x=mean(a.log_x, b.log_x),
        loss=mean(a.loss, b.loss),
        lr_min=min(a.lr_min, b.lr_min),
        lr_max=max(a.lr_max, b.lr_max),
    )


def append(bins: tuple[Bin, ...], new: Bin) -> tuple[Bin, ...]:
    """`bins` with one more; beyond MAX_BINS neighbours are merged in pairs, so that memory stays bounded.

    New bins then fill the last one up to the size of the others: all weigh the same, and the whole stage stays in sight.
    """
    if bins and bins[-1].n_steps + new.n_steps <= max([b.n_steps for b in bins]):
        return (*bins[:-1], merge(bins[-1], new))
    bins = (*bins, new)
    if len(bins) <= MAX_BINS:
        return bins
    pairs = tuple(merge(bins[i], bins[i + 1]) for i in range(0, len(bins) - 1, 2))
    return pairs if len(bins) % 2 == 0 else (*pairs, bins[-1])


def steady_tail(bins: tuple[Bin, ...], tolerance: float = 0.01) -> tuple[Bin, ...]:
    """The longest run of latest bins over which the learning rate moves by no more than `tolerance`."""
    low, high, n = np.inf, 0.0, 0
    for b in reversed(bins):
        # comparisons: this runs over every bin at every check, and min() and max() take five times as long
        low = b.lr_min if b.lr_min < low else low
        high = b.lr_max if b.lr_max > high else high
        if high > low * (1 + tolerance):
            break
        n += 1
    return bins[len(bins) - n :]


def log_axes(bins: tuple[Bin, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log10 of x and log10 of loss, shape (n_bins,) each."""
    return np.array([b.log_x for b in bins]), np.log10([b.loss for b in bins])
