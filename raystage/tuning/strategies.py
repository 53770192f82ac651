"""Strategies: pure functions from what is known of points to the points wanted next, and to the one to choose."""

import json
from collections.abc import Sequence
from typing import Protocol

from raystage.config.search import Search
from raystage.config.search_space import Point, Space
from raystage.tuning.point_result import Told, best_of
from raystage.tuning.trial_config import START, WARMUP


class Strategy(Protocol):
    @property
    def most_points(self) -> int:
        """How many it may come to try."""
        ...

    def wanted(self, told: Told, begun: Sequence[Point]) -> list[Point]:
        """Points to try now, the first first, those of `begun` left out. None, with none under way: the search is done."""
        ...

    def chosen(self, told: Told) -> Point | None:
        """The point to train with, as far as is known; None where every one is rejected."""
        ...

    def why(self, told: Told) -> str:
        """How the chosen point was found, in a sentence."""
        ...


class Grid:
    """Every point."""

    def __init__(self, space: Space) -> None:
        self._points = list(space.corners())

    @property
    def most_points(self) -> int:
        return len(self._points)

    def wanted(self, told: Told, begun: Sequence[Point]) -> list[Point]:
        return [point for point in self._points if point not in begun]

    def chosen(self, told: Told) -> Point | None:
        return best_of(told)

    def why(self, told: Told) -> str:
        return f"the best of a grid of {len(self._points)} points, the cheapest within the spread over seeds"


class Lightweight:
    """Sequence length warmup tuned within its first steps (Li et al. 2108.06084, section 4).

    The smallest start length whose validation perplexity does not fluctuate, under the shortest warmup; then, with that start, the
    longest warmup of which the same holds, by bisection: longer warmups are taken to be no more stable than shorter ones. The longest
    comes first, since it often holds.
    """

    def __init__(self, space: Space) -> None:
        self._starts = sorted(space[START].values, key=lambda value: list(json.loads(value)))
        self._warmups = sorted(space[WARMUP].values, key=float)

    @property
    def most_points(self) -> int:
        n_warmups = len(self._warmups)
        return len(self._starts) + (1 + (n_warmups - 2).bit_length() if n_warmups > 1 else 0)  # the longest, then halves

    def wanted(self, told: Told, begun: Sequence[Point]) -> list[Point]:
        point = self._next(told)
        return [] if point is None or point in begun else [point]

    def chosen(self, told: Told) -> Point | None:
        start = self._start(told)
        stable = [warmup for warmup in self._warmups if start is not None and self._holds(told, start, warmup)]
        return self._point(start, stable[-1]) if start is not None and stable else None

    def why(self, told: Told) -> str:
        return "the smallest start length that is stable, then the longest warmup that is, within the first steps of the run (SLW)"

    def _next(self, told: Told) -> Point | None:
        for start in self._starts:
            if (point := self._point(start, self._warmups[0])) not in told:
                return point
            if told[point].is_good:
                return self._bisected(told, start)
        return None

    def _bisected(self, told: Told, start: str) -> Point | None:
        """Between the longest warmup that is known to hold and the shortest that is known not to."""
        held, broken = 0, len(self._warmups)
        for i, warmup in enumerate(self._warmups):
            if (result := told.get(self._point(start, warmup))) is not None:
                held, broken = (max(held, i), broken) if result.is_good else (held, min(broken, i))
        if broken - held <= 1:
            return None
        longest = self._point(start, self._warmups[-1])
        return longest if longest not in told else self._point(start, self._warmups[(held + broken) // 2])

    def _start(self, told: Told) -> str | None:
        return next((start for start in self._starts if self._holds(told, start, self._warmups[0])), None)

    def _holds(self, told: Told, start: str, warmup: str) -> bool:
        result = told.get(self._point(start, warmup))
        return result is not None and result.is_good

    def _point(self, start: str, warmup: str) -> Point:
        return ((START, start), (WARMUP, warmup))


def strategy_of(search: Search, space: Space) -> Strategy:
    """The one that the configuration names."""
    from raystage.tuning.tpe import Tpe

    if search.strategy.kind == "grid":
        return Grid(space)
    return Lightweight(space) if search.strategy.kind == "lightweight" else Tpe(space, search.strategy)
