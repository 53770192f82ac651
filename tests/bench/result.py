"""A bench's outcome: a ratio inside one run, with its spread and its target."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Result:
    """`ratios`: one a pair of runs, ours over the other's; `target`: what the median must meet, like `>= 0.90`; in brackets one for others
    to meet."""

    name: str
    against: str
    unit: str
    ratios: tuple[float, ...]
    target: str
    detail: str

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def is_missed(self) -> bool:
        """Whether there is a target, and the median lies on the wrong side of it."""
        sign, _, bound = self.target.partition(" ")
        return (sign == "<=" and self.median > float(bound)) or (sign == ">=" and self.median < float(bound))

    def line(self) -> str:
        """One line of the table."""
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        target = f"target {self.target:<10} {'missed' if self.is_missed else '':<6}"
        return f"{self.name:<44} {self.against:<34} {self.median:>7.2f} {self.unit:<4} ({spread})  {target} {self.detail}"


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
