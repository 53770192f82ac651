"""The book of a search: which trials were begun and how they ended, on disk before anything follows from it.

A search that is killed and started again reads it: trials that ended are not run again, those that were under way go on under their names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from raystage.config.search_space import Point
from raystage.tracking.records import JsonlWriter, read_records
from raystage.tuning.outcome import Outcome
from raystage.tuning.point_result import PointResult, result_of
from raystage.tuning.strategies import Strategy
from raystage.tuning.trial_config import Trial, spread_over

TRIALS_FILE = "trials.jsonl"
Next = Trial | Literal["wait", "done"]


class Book:
    """`trials`: by name, in the order begun; `outcomes`: of those that have ended.

    `one_seed_first`: a point's other seeds wait for its first, and are left out where that one may not be chosen.
    """

    def __init__(self, folder: Path, strategy: Strategy, seeds: Sequence[int], one_seed_first: bool = False) -> None:
        self.strategy, self._seeds, self._one_seed_first = strategy, seeds, one_seed_first
        self.trials: dict[str, Trial] = {}
        self.outcomes: dict[str, Outcome] = {}
        for record in read_records(folder / TRIALS_FILE):
            trial = Trial.from_json(record["trial"])
            self.trials[trial.name] = trial
            if record["outcome"] is not None:
                self.outcomes[trial.name] = Outcome.from_json(record["outcome"])
        self._running: set[str] = set()  # by this process
        self._writer = JsonlWriter(folder / TRIALS_FILE)

    @property
    def told(self) -> dict[Point, PointResult]:
        """The points all of whose trials have ended."""
        ended = {point: [self.outcomes.get(trial.name) for trial in self._trials_of(point)] for point in self._points()}
        return {point: result_of([o for o in outcomes if o]) for point, outcomes in ended.items() if all(outcomes)}

    @property
    def most_trials(self) -> int:
        """How many it may come to run, those that have ended included."""
        return max(len(self.trials), self.strategy.most_points * len(self._seeds))

    @property
    def is_done(self) -> bool:
        """Whether nothing is under way, and nothing more is wanted."""
        return not self._waiting() and not self._running

    def next(self) -> Next:
        """The next trial to run, noted as begun."""
        waiting = self._waiting()
        if not waiting:
            return "wait" if self._running else "done"
        trial = waiting[0]
        if trial.name not in self.trials:
            self._note(trial, None)
        self._running.add(trial.name)
        return trial

    def _waiting(self) -> list[Trial]:
        """Trials that may begin now: first those of points begun before, a killed search's too."""
        begun = [t for point in self._points() for t in self._trials_of(point)]
        open_ = [t for t in begun if t.name not in self.outcomes and t.name not in self._running and self._may_begin(t)]
        return open_ or spread_over(self.strategy.wanted(self.told, self._points())[:1], self._seeds[:1])

    def _trials_of(self, point: Point) -> list[Trial]:
        """One a seed; the first alone where that one has decided."""
        first = self.outcomes.get(Trial.of(point, self._seeds[0]).name)
        decided = self._one_seed_first and first is not None and not first.is_good
        return spread_over([point], self._seeds[:1] if decided else self._seeds)

    def _may_begin(self, trial: Trial) -> bool:
        return not self._one_seed_first or trial.seed == self._seeds[0] or Trial.of(trial.point, self._seeds[0]).name in self.outcomes

    def end(self, name: str, outcome: Outcome) -> None:
        """Notes how a trial ended."""
        self.outcomes[name] = outcome
        self._note(self.trials[name], outcome)
        self._running.discard(name)

    def _note(self, trial: Trial, outcome: Outcome | None) -> None:
        self.trials[trial.name] = trial
        self._writer.write({"trial": trial.to_json(), "outcome": outcome.to_json() if outcome else None})

    def _points(self) -> list[Point]:
        return list(dict.fromkeys(trial.point for trial in self.trials.values()))
