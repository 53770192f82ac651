"""Values over seeds, their mean, deviation and interval. Pure."""

import dataclasses
import math
import statistics
from collections.abc import Iterable

from scipy import special


@dataclasses.dataclass(frozen=True)
class Spread:
    """One value a seed, all finite."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation; None of one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_interval(self) -> float | None:
        """Half of the 95% interval of the mean, by Student's t; None of one value."""
        n = len(self.values)
        return None if self.deviation is None else float(special.stdtrit(n - 1, 0.975)) * self.deviation / math.sqrt(n)


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """Of those that are known and finite; None where none is."""
    there = tuple(value for value in values if value is not None and math.isfinite(value))
    return Spread(there) if there else None
