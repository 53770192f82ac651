"""Ray Tune's side of a search: it asks for trials, and is told nothing that the book does not know."""

import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raystage.config.search import Strategy
from raystage.tracking.records import Record
from raystage.tuning.book import Book
from raystage.tuning.outcome import Outcome, Status
from raystage.tuning.trial import LOSS, OUTCOME, TOKENS, told_of
from raystage.tuning.trial_config import Trial

_log = logging.getLogger(__name__)
Ended = Callable[[Trial, Outcome], None]


class BookSearcher(Searcher):
    """Hands out the book's next trials; notes how each ended, and tells `ended`.

    `refusal`: why no run could be like a trial, if so; `read`: the outcome of one that did not tell it.
    """

    def __init__(self, book: Book, refusal: Callable[[Trial], str | None], read: Callable[[Trial, Status], Outcome], ended: Ended) -> None:
        super().__init__(metric=LOSS, mode="min")
        self._book, self._refusal, self._read, self._ended = book, refusal, read, ended
        self._by_id: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> Any:
        while isinstance(found := self._book.next(), Trial):
            if (refused := self._refusal(found)) is None:
                self._by_id[trial_id] = found
                return {"trial": found.to_json()}
            self._end(found, Outcome("done", rejected=refused))
        return Searcher.FINISHED if found == "done" else None  # or what comes next depends on what is under way

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._by_id.pop(trial_id, None)
        if trial is None:
            return
        told = None if error else (result or {}).get(OUTCOME)
        outcome = Outcome.from_json(json.loads(told)) if told else self._read(trial, "failed" if error else "ended early")
        self._end(trial, outcome)

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        self._book.end(trial.name, outcome)
        try:
            self._ended(trial, outcome)
        except Exception:  # it is noted; Tune would take what is raised here for a failure of the trial
            _log.warning("after trial %s", trial.name, exc_info=True)

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps copies of what it works with, to restore a search from: here the book does that."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


def scheduler_of(settings: Strategy, horizon_tokens: float, past: dict[str, list[Record]]) -> TrialScheduler:
    """ASHA (Li et al. 1810.05934) on tokens, which knows the validations of `past` trials, by name; the other strategies end no trial."""
    if settings.kind != "asha":
        return FIFOScheduler()
    scheduler = AsyncHyperBandScheduler(
        time_attr=TOKENS,
        metric=LOSS,
        mode="min",
        max_t=max(2, int(horizon_tokens)),
        grace_period=max(1, int(settings.grace * horizon_tokens)),
        reduction_factor=settings.reduction_factor,
        stop_last_trials=False,  # where a trial ends is its own matter: it validates there
    )
    for name, val in past.items():
        stub: Any = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, stub)  # type: ignore[arg-type]
        for record in val:
            scheduler.on_trial_result(None, stub, told_of(record))  # type: ignore[arg-type]
    return scheduler
