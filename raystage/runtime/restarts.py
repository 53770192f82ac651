"""The progress guard: how often a group of workers is started again."""

from collections.abc import Sequence
from pathlib import Path

from raystage.runtime.engine import EngineError
from raystage.runtime.failures import Failure, cause, failures_of

_MAX_ROWS_NAMED = 8


class Restarts:
    """Counts failures in a row that came without a new step. One that comes further than all before it is worth another try."""

    def __init__(self, run_dir: Path, max_failures: int) -> None:
        self._run_dir, self._max_failures = run_dir, max_failures
        self._n_noted = len(failures_of(run_dir))
        self._furthest_step = -2  # a group that dies before its first word has come to -1
        self._n_in_vain = 0
        self._steps: dict[int, int] = {}

    def after(self, reached_step: int, error: str) -> str:
        """What to say before the next start. Raises EngineError after too many in vain.

        `reached_step`: the furthest this group came; `error`: what is known of its end beside what its workers have noted.
        """
        first = cause(self._newly_noted())
        told = error if first is None else str(first)
        self._n_in_vain = 0 if reached_step > self._furthest_step else self._n_in_vain + 1
        self._furthest_step = max(self._furthest_step, reached_step)
        if first is not None:
            self._steps[first.step] = self._steps.get(first.step, 0) + 1
            if self._steps[first.step] > 1:
                told += f"; step {first.step} has failed {self._steps[first.step]} times, so look at its batch: {_named(first.rows)}"
        if self._n_in_vain >= self._max_failures:
            raise EngineError(f"{told}; given up after {self._n_in_vain} restarts without a new step (runtime.max_failures)")
        return f"the workers failed after step {reached_step}, and start again: {told}"

    def _newly_noted(self) -> list[Failure]:
        noted = failures_of(self._run_dir)
        new, self._n_noted = noted[self._n_noted :], len(noted)
        return new


def _named(rows: Sequence[int]) -> str:
    shown = ", ".join(str(row) for row in rows[:_MAX_ROWS_NAMED])
    return f"rows {shown}{f' and {len(rows) - _MAX_ROWS_NAMED} more' if len(rows) > _MAX_ROWS_NAMED else ''} of the prepared corpus"
