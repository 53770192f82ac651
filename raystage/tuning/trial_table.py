"""The trials of a search in the terminal: a live table where there is one; without, lines say how each ended."""

from collections.abc import Sequence

import rich.console
from rich.live import Live
from rich.table import Table

from raystage.tuning.book import Book
from raystage.tuning.outcome import Outcome
from raystage.tuning.trial_config import Trial

_MOST_ROWS = 20


def trial_table(trials: Sequence[Trial], outcomes: dict[str, Outcome], running: set[str], chosen: object) -> Table:
    """A row a trial, the latest ones where they are many; those of the chosen point are bold."""
    keys = [key for key, _ in trials[0].point] if trials else []
    table = Table(
        *(key.removeprefix("pacing.") for key in keys), "seed", "state", "loss or cost", "val. ppl ratio", box=None, header_style="dim"
    )
    for trial in trials[-_MOST_ROWS:]:
        outcome = outcomes.get(trial.name)
        state = "running" if trial.name in running else "waiting" if outcome is None else _state(outcome)
        numbers = (
            ("", "")
            if outcome is None
            else (f"{outcome.value:.4g}" if outcome.value is not None else "", f"{outcome.val_perplexity_ratio:.2f}")
        )
        table.add_row(*(value for _, value in trial.point), str(trial.seed), state, *numbers, style="bold" if trial.point == chosen else "")
    return table


def _state(outcome: Outcome) -> str:
    return "rejected" if outcome.status == "done" and outcome.rejected else outcome.status


class TrialView:
    """Shows the table while a search runs; between `with` it owns the terminal's last lines."""

    def __init__(self, terminal: rich.console.Console) -> None:
        self._live = Live(console=terminal, refresh_per_second=2) if terminal.is_terminal else None

    def __enter__(self) -> "TrialView":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, book: Book, running: set[str]) -> None:
        """Draws what the book knows."""
        if self._live and book.trials:
            self._live.update(trial_table(list(book.trials.values()), book.outcomes, running, book.strategy.chosen(book.told)))
