"""The book of a search: what was begun and how it ended survives a kill, and nothing is begun or told twice."""

import itertools
from pathlib import Path

from raystage.config.search_space import read_space
from raystage.tuning.book import Book
from raystage.tuning.outcome import Outcome
from raystage.tuning.strategies import Grid, Lightweight
from raystage.tuning.trial_config import Trial

SPACE = read_space({"pacing.lengths": [[8, 32], [16, 32]], "pacing.warmup.fraction": [0.1, 0.2, 0.4]})


def finish(book: Book, value: float = 3.0) -> list[str]:
    """Ends every trial that it hands out, one by one; their names."""
    names = []
    while isinstance(trial := book.next(), Trial):
        book.end(trial.name, Outcome("done", value))
        names.append(trial.name)
    assert trial == "done"
    return names


def test_a_killed_search_goes_on_with_what_was_under_way_and_runs_nothing_twice(tmp_path: Path) -> None:
    alone = finish(Book(tmp_path / "alone", Grid(SPACE), [0, 1]))
    assert len(set(alone)) == len(alone) == 12
    folder = tmp_path / "killed"
    book = Book(folder, Grid(SPACE), [0, 1])
    ended, open_ = [book.next() for _ in range(2)], [book.next() for _ in range(3)]
    for trial in ended:
        assert isinstance(trial, Trial)
        book.end(trial.name, Outcome("done", 3.0))
    again = Book(folder, Grid(SPACE), [0, 1])
    assert [again.next() for _ in range(3)] == open_
    for trial in open_:
        assert isinstance(trial, Trial)
        again.end(trial.name, Outcome("done", 3.0))
    rest = finish(again)
    assert sorted([*rest, *(t.name for t in (*ended, *open_) if isinstance(t, Trial))]) == sorted(alone)
    assert finish(Book(folder, Grid(SPACE), [0, 1])) == [], "done"


def test_a_torn_line_is_a_trial_that_goes_on(tmp_path: Path) -> None:
    book = Book(tmp_path, Grid(SPACE), [0])
    first = book.next()
    assert isinstance(first, Trial)
    book.end(first.name, Outcome("done", 2.5))
    lines = (tmp_path / "trials.jsonl").read_bytes()
    (tmp_path / "trials.jsonl").write_bytes(lines[:-10])
    assert Book(tmp_path, Grid(SPACE), [0]).next() == first


def test_where_the_next_trial_depends_on_one_under_way_it_waits(tmp_path: Path) -> None:
    book = Book(tmp_path, Lightweight(SPACE), [0, 1, 2])
    seeds = [book.next() for _ in range(3)]
    assert [trial.seed for trial in seeds if isinstance(trial, Trial)] == [0, 1, 2]
    assert book.next() == "wait"
    for trial in itertools.islice(seeds, 2):
        assert isinstance(trial, Trial)
        book.end(trial.name, Outcome("done", 3.0))
        assert book.next() == "wait", "a point is known when all its seeds are"
    assert isinstance(seeds[2], Trial)
    book.end(seeds[2].name, Outcome("done", 3.0))
    assert isinstance(book.next(), Trial)


def test_outcomes_are_read_back_as_they_were(tmp_path: Path) -> None:
    book = Book(tmp_path, Grid(SPACE), [0])
    outcome = Outcome("done", 3.25, "validation perplexity rose", float("inf"), 1.5, 1e12, 1000, 2.5, 60)
    trial = book.next()
    assert isinstance(trial, Trial)
    book.end(trial.name, outcome)
    assert Book(tmp_path, Grid(SPACE), [0]).outcomes == {trial.name: outcome}


def test_where_trials_are_compared_under_way_a_points_first_seed_decides(tmp_path: Path) -> None:
    book = Book(tmp_path, Grid(SPACE), [5, 6, 7], one_seed_first=True)
    first, second = book.next(), book.next()
    assert isinstance(first, Trial)
    assert isinstance(second, Trial)
    assert (first.seed, second.seed) == (5, 5)
    assert first.point != second.point
    book.end(first.name, Outcome("ended early", 4.0))
    assert not book.told[first.point].is_good
    book.end(second.name, Outcome("done", 3.0))
    assert second.point not in book.told
    others = [book.next(), book.next()]
    assert [(trial.point, trial.seed) for trial in others if isinstance(trial, Trial)] == [(second.point, 6), (second.point, 7)]
