"""A search in the terminal: how far it is."""

import io
from pathlib import Path

from rich.console import Console as Terminal

from raystage.config.search_space import read_space
from raystage.tuning.book import Book
from raystage.tuning.outcome import Outcome
from raystage.tuning.strategies import Grid
from raystage.tuning.trial_config import Trial
from raystage.tuning.trial_table import TrialView, standing

SPACE = read_space({"pacing.lengths": [[8, 32], [16, 32]], "pacing.warmup.fraction": [0.1, 0.2, 0.4]})


def test_standing() -> None:
    assert standing(0, 8, 2, 0, 0.0) == "0 of at most 8 trials, 2 running"
    assert standing(5, 8, 2, 3, 60.0) == "5 of at most 8 trials, 2 running, at most 1 min 30 s left"
    assert standing(8, 8, 0, 3, 60.0) == "8 of at most 8 trials, 0 running"


def shown(folder: Path, is_terminal: bool, n_trials: int = 2) -> str:
    """The first trials, one after the other, of a grid of six."""
    out, book = io.StringIO(), Book(folder, Grid(SPACE), [0])
    with TrialView(Terminal(file=out, width=100, color_system=None, force_terminal=is_terminal)) as view:
        view.show(book, set())
        for _ in range(n_trials):
            trial = book.next()
            assert isinstance(trial, Trial)
            view.show(book, {trial.name})
            book.end(trial.name, Outcome("done", 3.25))
            view.show(book, set())
    return out.getvalue()


def test_a_live_table_says_how_far_it_is(tmp_path: Path) -> None:
    text = shown(tmp_path, is_terminal=True)
    assert "1 of at most 6 trials, 1 running, at most" in text
    assert "3.25" in text


def test_without_a_terminal_there_is_a_line_for_each_trial_that_has_ended(tmp_path: Path) -> None:
    assert [line.partition(",")[0] for line in shown(tmp_path, is_terminal=False).splitlines()] == [
        "1 of at most 6 trials",
        "2 of at most 6 trials",
    ]


def test_a_search_that_is_over_has_no_time_left(tmp_path: Path) -> None:
    assert shown(tmp_path, is_terminal=False, n_trials=6).splitlines()[-1] == "6 trials"
