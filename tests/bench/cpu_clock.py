"""CPU time of one thread inside some functions, without that of others called by them, and without its own."""

import time
from collections.abc import Callable
from typing import Any


class CpuClock:
    """Wrap functions with `running` and, where they are called by those and do not count, with `stopped`. Units: seconds."""

    def __init__(self) -> None:
        self._spent_s, self._n_readings, self._depth = 0.0, 0, 0
        self._own_s = self._cost_of_a_reading()

    @property
    def spent_s(self) -> float:
        return self._spent_s - self._n_readings * self._own_s

    def _cost_of_a_reading(self, n: int = 10_000) -> float:
        nothing = self.running(lambda: None)
        for _ in range(n):
            nothing()
        cost_s = self._spent_s / n
        self._spent_s, self._n_readings = 0.0, 0
        return cost_s

    def running(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        return self._timed(inner, 1)

    def stopped(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        return self._timed(inner, -1)

    def _timed(self, inner: Callable[..., Any], sign: int) -> Callable[..., Any]:
        def outer(*args: Any, **kwargs: Any) -> Any:
            counts = (self._depth == 0) == (sign > 0)
            begin_s = time.thread_time()
            self._depth += counts
            try:
                return inner(*args, **kwargs)
            finally:
                self._depth -= counts
                self._n_readings += counts * sign
                self._spent_s += counts * sign * (time.thread_time() - begin_s)

        return outer
