"""The losses of a stage, long or short, in few numbers; and as a row of characters."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

NOT_FINITE = "!"
_MOST_BINS = 96
_HIGH_QUANTILE = 0.9  # of the columns: what is above, like the jump after a change, would flatten all the rest
_LEAST_SPAN = 0.01  # of the loss: less is noise, and stays low


@dataclasses.dataclass(frozen=True)
class LossCurve:
    """Mean losses of bins of `bin_steps` steps each, at most 96; None where a loss was not finite. `open_*`: the bin that fills."""

    stage: int | None = None
    means: tuple[float | None, ...] = ()
    bin_steps: int = 1
    open_sum: float | None = 0.0
    open_steps: int = 0

    def plus(self, stage: int, loss: float | None) -> "LossCurve":
        """With one more step; the first one of another stage begins anew."""
        if stage != self.stage:
            return LossCurve(stage).plus(stage, loss)
        total, n_steps = _sum(self.open_sum, loss), self.open_steps + 1
        if n_steps < self.bin_steps:
            return dataclasses.replace(self, open_sum=total, open_steps=n_steps)
        means = (*self.means, None if total is None else total / n_steps)
        closed = dataclasses.replace(self, means=means, open_sum=0.0, open_steps=0)
        return closed._halved() if len(means) == _MOST_BINS else closed

    def _halved(self) -> "LossCurve":
        sums = [_sum(*pair) for pair in zip(self.means[::2], self.means[1::2], strict=True)]
        return dataclasses.replace(self, means=tuple(None if s is None else s / 2 for s in sums), bin_steps=2 * self.bin_steps)


def sparkline(values: Sequence[float | None], columns: int, bars: str) -> str:
    """A character a column, the mean of its share: of `bars`, low to high, or `!` where one is not finite.

    The scale reaches from the lowest column to the highest, but for a tenth of them.
    """
    columns = min(columns, len(values))
    edges = [round(i * len(values) / columns) for i in range(columns + 1)] if columns else []
    means = [_mean(values[low:high]) for low, high in pairwise(edges)]
    finite = sorted(mean for mean in means if mean is not None)
    if not finite:
        return NOT_FINITE * len(means)
    low, high = finite[0], finite[math.ceil(_HIGH_QUANTILE * len(finite)) - 1]
    span = max(high - low, _LEAST_SPAN * abs(low)) or 1.0
    return "".join(NOT_FINITE if mean is None else bars[round(min(1.0, (mean - low) / span) * (len(bars) - 1))] for mean in means)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return statistics.fmean(finite) if len(finite) == len(values) else None
