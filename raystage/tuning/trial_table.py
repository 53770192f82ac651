"""The trials of a search in the terminal: a live table where there is one; without, lines say how each ended."""

import time
from collections.abc import Sequence

import rich.console
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raystage.tracking import units
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


def standing(n_ended: int, most: int, n_running: int, n_ended_before: int, spent_s: float) -> str:
    """`3 of at most 8 trials, 2 running, at most 6 min 20 s left`, at the pace of the `spent_s` since `n_ended_before` had ended."""
    n_new = n_ended - n_ended_before
    left = f", at most {units.duration(spent_s / n_new * (most - n_ended))} left" if n_new and most > n_ended else ""
    return f"{n_ended} of at most {most} trials, {n_running} running{left}"


class TrialView:
    """Shows the table while a search runs; from the first trial to the end of `with` it owns the terminal's last lines."""

    def __init__(self, terminal: rich.console.Console) -> None:
        self._terminal = terminal
        self._live = Live(console=terminal, auto_refresh=False) if terminal.is_interactive else None
        self._began_s, self._n_ended_before, self._n_said = 0.0, 0, 0

    def __enter__(self) -> "TrialView":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, book: Book, running: set[str]) -> None:
        """Draws what the book knows; where nothing can be drawn over, a line once another trial has ended."""
        if not self._began_s:
            self._began_s, self._n_ended_before = time.monotonic(), len(book.outcomes)
            self._n_said = self._n_ended_before
        n_ended = len(book.outcomes)
        spent_s = time.monotonic() - self._began_s
        is_over = not running and book.is_done  # sooner than it might have been, often
        line = f"{n_ended} trials" if is_over else standing(n_ended, book.most_trials, len(running), self._n_ended_before, spent_s)
        if self._live and book.trials:
            table = trial_table(list(book.trials.values()), book.outcomes, running, book.strategy.chosen(book.told))
            self._live.start()
            self._live.update(Group(Text(line, style="bold"), table), refresh=True)
        elif not self._live and n_ended > self._n_said:
            self._n_said = n_ended
            self._terminal.print(line, markup=False, soft_wrap=True)
