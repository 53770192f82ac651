"""A bench's outcome: a ratio inside one run, with its spread and its target."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Result:
    """`ratios`: one a pair of runs, ours over the other's; `target`: what the median is to meet, like `>= 0.90`, or in brackets what others
    are to; `gate`: what it must meet."""

    name: str
    against: str
    unit: str
    ratios: tuple[float, ...]
    target: str
    detail: str
    gate: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def is_missed(self) -> bool:
        """Whether there is a target, and the median lies on the wrong side of it."""
        return self._misses(self.target)

    @property
    def misses_gate(self) -> bool:
        """The same of a gate."""
        return self._misses(self.gate)

    def line(self) -> str:
        """One line of the table."""
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        target = f"target {self.target:<10} {'missed' if self.is_missed else '':<6}"
        gate = f"gate {self.gate} {'MISSED ' if self.misses_gate else ''}" if self.gate else ""
        return f"{self.name:<44} {self.against:<34} {self.median:>7.2f} {self.unit:<4} ({spread})  {target} {gate}{self.detail}"

    def _misses(self, bound: str) -> bool:
        sign, _, number = bound.partition(" ")
        return (sign == "<=" and self.median > float(number)) or (sign == ">=" and self.median < float(number))


def paired(ours: Callable[[], float], other: Callable[[], float], pairs: int) -> Sequence[float]:
    """Ratios ours / other of figures taken turn by turn, so that a busy machine slows both; one pair before them warms up."""
    return [a / b for a, b in paired_figures(ours, other, pairs)]


def paired_figures(ours: Callable[[], float], other: Callable[[], float], pairs: int) -> Sequence[tuple[float, float]]:
    """The figures themselves."""
    ours(), other()
    figures = []
    for i in range(pairs):
        first, second = (ours, other) if i % 2 == 0 else (other, ours)
        a, b = first(), second()
        figures.append((a, b) if i % 2 == 0 else (b, a))
    return figures
