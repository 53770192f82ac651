"""A search in MLflow: a parent run, the trials' own runs nested in it, their objective and constraints, the best one marked."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raystage.config import Config, to_tree
from raystage.config.search import Search
from raystage.config.search_space import Space
from raystage.tracking import mlflow_client
from raystage.tracking.mlflow_mark import load_mark
from raystage.tracking.mlflow_product import artifact
from raystage.tracking.mlflow_sink import MlflowSink
from raystage.tuning.book import Book
from raystage.tuning.outcome import Outcome
from raystage.tuning.trial_config import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)
_TOLD = "trial.status"
_STATUS: Mapping[str, Literal["FINISHED", "KILLED", "FAILED"]] = {"done": "FINISHED", "ended early": "KILLED", "failed": "FAILED"}


class SearchTracking:
    """Does nothing where the base has tracking.mlflow=false; trouble with MLflow is a warning, and never ends a search."""

    def __init__(self, search: Search, space: Space, base: Config, folder: Path, folder_of: Callable[[Trial], Path]) -> None:
        self._tracking, self._folder_of = base.tracking, folder_of
        tree = {"search": to_tree(search), "space": {d.key: ", ".join(d.values) or f"{d.low} to {d.high}" for d in space.dimensions}}
        tags = {"raystage.kind": "search"}
        self._parent = MlflowSink.open(folder, base.tracking, tree, search.name, tags=tags) if base.tracking.mlflow else None

    @property
    def tags_of_trials(self) -> dict[str, str]:
        """What makes their runs children of the search's."""
        run_id = self._parent.run_id if self._parent else None
        return {"mlflow.parentRunId": run_id} if run_id else {}

    def make_good(self, book: Book) -> None:
        """Tells of the trials that have ended what MLflow does not know: it was away, or the search was killed just then."""
        for name, outcome in book.outcomes.items():
            if not self.trial_ended(book.trials[name], outcome, only_if_untold=True):
                return  # it is away: each more would wait for it again

    def trial_ended(self, trial: Trial, outcome: Outcome, only_if_untold: bool = False) -> bool:
        """Its point, objective, constraints and status; a trial that was ended from outside could not close its run.

        False where MLflow could not be told.
        """
        mark = load_mark(self._folder_of(trial)) if self._parent else None
        if mark is None:
            return True
        numbers = {
            "objective": outcome.value,
            "constraint.val_perplexity_ratio": outcome.val_perplexity_ratio,
            "constraint.loss_ratio": outcome.loss_ratio,
            "cost.flops": outcome.flops,
        }
        tags = {**{f"point.{key}": value for key, value in trial.point}, "seed": str(trial.seed), **self.tags_of_trials}
        tags |= {"trial.rejected": outcome.rejected} if outcome.rejected else {}

        def tell(client: "MlflowClient") -> None:
            if only_if_untold and {_TOLD, *self.tags_of_trials} <= client.get_run(mark.run_id).data.tags.keys():
                return
            for key, number in numbers.items():
                if number is not None and abs(number) < float("inf"):
                    client.log_metric(mark.run_id, key, number, step=outcome.steps)
            for key, text in tags.items():
                client.set_tag(mark.run_id, key, text)
            client.set_terminated(mark.run_id, _STATUS[outcome.status])
            client.set_tag(mark.run_id, _TOLD, outcome.status)  # the last word: all of it is there

        return self._contained(tell)

    def close(self, book: Book, best: Path | None, report: Path, finished: bool) -> None:
        """Marks the trials of the chosen point, and leaves best.yaml and the report with the parent."""
        if self._parent is None:
            return
        self._parent.connect()  # MLflow may have been away so far: trials are told whose they are
        chosen = book.strategy.chosen(book.told)
        self.make_good(book)
        marks = {name: mark for name, trial in book.trials.items() if (mark := load_mark(self._folder_of(trial)))}

        def mark_best(client: "MlflowClient") -> None:
            for name, mark in marks.items():
                client.set_tag(mark.run_id, "raystage.best", str(book.trials[name].point == chosen).lower())

        self._contained(mark_best)
        products = [artifact(path, None if path.is_file() else "report") for path in (best, report) if path is not None and path.exists()]
        if trouble := self._parent.hand_over(products, "FINISHED" if finished else "KILLED"):
            _log.warning("MLflow: the search's record is incomplete (%s); the same command sends the rest", trouble)

    def _contained(self, act: "Callable[[MlflowClient], None]") -> bool:
        from mlflow.exceptions import MlflowException

        try:
            act(mlflow_client.connect(mlflow_client.tracking_uri(self._tracking)))
        except (MlflowException, OSError) as error:
            _log.warning("MLflow: the search's record is incomplete (%s)", mlflow_client.trouble(error))
            return False
        return True
