"""A bench's outcome: a ratio inside one run, with its spread and its target."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Result:
    """`ratios`: one a pair of runs, ours over the other's; `target`: what the median must meet, in words."""

    name: str
    against: str
    unit: str
    ratios: tuple[float, ...]
    target: str
    detail: str

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    def line(self) -> str:
        """One line of the table."""
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return f"{self.name:<44} {self.against:<34} {self.median:>7.2f} {self.unit:<4} ({spread})  target {self.target:<10} {self.detail}"


def paired(ours: Callable[[], float], other: Callable[[], float], pairs: int) -> Sequence[float]:
    """Ratios ours / other of figures taken turn by turn, so that a busy machine slows both; one pair before them warms up."""
    ours(), other()
    ratios = []
    for i in range(pairs):
        first, second = (ours, other) if i % 2 == 0 else (other, ours)
        a, b = first(), second()
        ratios.append(a / b if i % 2 == 0 else b / a)
    return ratios
