"""Strategies on made truths: the right point, with few trials, whatever was known before and in whatever order trials end."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystage.config.search import Strategy as Settings
from raystage.config.search_space import Point, Space, read_space
from raystage.tuning.point_result import PointResult, best_of
from raystage.tuning.strategies import Grid, Lightweight, Strategy
from raystage.tuning.tpe import Tpe

STARTS, WARMUPS = [[8, 128], [16, 128], [32, 128], [64, 128]], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
SPACE = read_space({"pacing.lengths": STARTS, "pacing.warmup.fraction": WARMUPS})


def result(value: float = 3.0, rejected: str | None = None, spread: float = 0.0, flops: float = 1.0, seconds: float = 1.0) -> PointResult:
    return PointResult(value, spread, rejected, False, False, flops, seconds, 1)


def run(strategy: Strategy, truth: dict[Point, PointResult]) -> dict[Point, PointResult]:
    """One point after the other."""
    told: dict[Point, PointResult] = {}
    while points := strategy.wanted(told, list(told)):
        told[points[0]] = truth[points[0]]
    return told


@given(first_stable=st.integers(0, len(STARTS)), longest=st.integers(1, len(WARMUPS)))
def test_lightweight_finds_the_smallest_start_and_the_longest_warmup(first_stable: int, longest: int) -> None:
    """In at most as many trials as start lengths, the longest warmup, and a bisection."""
    starts, warmups = SPACE["pacing.lengths"].values, SPACE["pacing.warmup.fraction"].values
    truth = {
        point: result(rejected=None if starts.index(point[0][1]) >= first_stable and warmups.index(point[1][1]) < longest else "unstable")
        for point in SPACE.corners()
    }
    strategy = Lightweight(SPACE)
    told = run(strategy, truth)
    if first_stable == len(STARTS):
        assert strategy.chosen(told) is None
        assert len(told) == len(STARTS)
        return
    chosen = strategy.chosen(told)
    assert chosen == (("pacing.lengths", starts[first_stable]), ("pacing.warmup.fraction", warmups[longest - 1]))
    assert len(told) <= first_stable + 1 + 1 + 3
    assert len(told) <= strategy.most_points == 4 + 1 + 3


@pytest.mark.parametrize("n_warmups", [1, 2, 3, 4, 6, 7])
def test_lightweight_tries_no_more_points_than_it_says_and_may_need_all(n_warmups: int) -> None:
    space = read_space({"pacing.lengths": STARTS[:1], "pacing.warmup.fraction": WARMUPS[:n_warmups]})
    points = list(space.corners())
    truths = [{p: result(rejected=None if i < n else "unstable") for i, p in enumerate(points)} for n in range(1, n_warmups + 1)]
    assert max(len(run(Lightweight(space), truth)) for truth in truths) == Lightweight(space).most_points


def test_lightweight_tries_the_longest_warmup_first() -> None:
    told = run(Lightweight(SPACE), {point: result() for point in SPACE.corners()})
    assert [point[1][1] for point in told] == ["0.1", "0.7"]


def test_starts_are_tried_in_order_of_their_numbers() -> None:
    space = read_space({"pacing.lengths": [[64, 128], [8, 128], [16, 128]], "pacing.warmup.fraction": [0.5, 0.1]})
    (first,) = Lightweight(space).wanted({}, [])
    assert first == (("pacing.lengths", "[8, 128]"), ("pacing.warmup.fraction", "0.1"))


def test_a_grid_takes_every_point_once() -> None:
    truth = {point: result(value=float(i)) for i, point in enumerate(SPACE.corners())}
    told = run(Grid(SPACE), truth)
    assert list(told) == list(truth)
    assert Grid(SPACE).chosen(told) == next(iter(truth))


def test_ties_go_to_the_cheaper_point_and_constraints_come_before_values() -> None:
    points = list(SPACE.corners())
    told = {
        points[0]: result(2.0, rejected="unstable"),
        points[1]: result(3.00, spread=0.02, flops=2e9),
        points[2]: result(3.01, spread=0.02, flops=1e9),
        points[3]: result(3.05, spread=0.02, flops=1e8),
    }
    assert best_of(told) == points[2]
    assert best_of({p: r for p, r in told.items() if r.rejected}) is None
    # alike but for the last step of a budget: then the better one, whatever the clock of a busy machine says
    near = {points[1]: result(3.01, spread=0.02, flops=1.001e9), points[2]: result(3.0, spread=0.02, flops=1.002e9, seconds=9.0)}
    assert best_of(near) == points[2]


def of_lr(point: Point) -> PointResult:
    """Best at 0.01; above 0.05 unstable."""
    lr = float(dict(point)["training.optimizer.lr"])
    return result(value=3 + (lr - 0.01) ** 2 * 1e3, rejected="unstable" if lr > 0.05 else None)


CONTINUOUS = read_space({"training.optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True}})


def propose(space: Space, n_points: int, seed: int = 0) -> dict[Point, PointResult]:
    strategy = Tpe(space, Settings(n_points=n_points, sampler_seed=seed))
    told: dict[Point, PointResult] = {}
    while points := strategy.wanted(told, list(told)):
        told[points[0]] = of_lr(points[0])
    return told


def test_tpe_beats_random_points_and_heeds_the_constraint() -> None:
    late: list[Point] = []
    for seed in range(3):
        told = propose(CONTINUOUS, 30, seed)
        assert len(told) == 30
        best = best_of(told)
        assert best is not None
        assert 0.002 < float(best[0][1]) < 0.05
        late += [point for point in list(told)[12:] if told[point].rejected]
    chances = random.Random(0)
    by_chance = 3 * sum(10 ** chances.uniform(-4, 0) > 0.05 for _ in range(18_000)) / 1000
    assert len(late) < by_chance / 2


def test_tpe_asked_again_after_a_kill_proposes_the_same() -> None:
    strategy, told = Tpe(CONTINUOUS, Settings(n_points=20)), propose(CONTINUOUS, 15)
    again = Tpe(CONTINUOUS, Settings(n_points=20))
    assert strategy.wanted(told, list(told)) == again.wanted(dict(told), list(told))
    under_way = [*told, (("training.optimizer.lr", "0.01"),)]
    assert strategy.wanted(told, under_way) != strategy.wanted(told, list(told)), "what is under way counts"


def test_tpe_ends_where_a_finite_space_is_used_up() -> None:
    space = read_space({"training.optimizer.lr": [0.1, 0.01, 0.001]})
    told = propose(space, 20)
    assert sorted(told) == sorted(space.corners())


@pytest.mark.parametrize("strategy", [Grid(SPACE), Lightweight(SPACE)])
def test_a_point_under_way_is_not_wanted_again(strategy: Strategy) -> None:
    first = strategy.wanted({}, [])[0]
    assert first not in strategy.wanted({}, [first])


def test_tpe_proposes_whole_numbers_and_learns_from_points_without_a_value() -> None:
    space = read_space({"training.batch_tokens": {"low": 1, "high": 1000000, "log": True}})
    strategy = Tpe(space, Settings(n_points=40))
    told: dict[Point, PointResult] = {}
    while points := strategy.wanted(told, list(told)):
        number = json.loads(points[0][0][1])
        assert isinstance(number, int)
        good = PointResult(float(number), 0.0, None, False, False, 1.0, 1.0, 1)
        told[points[0]] = good if number < 3000 else PointResult(None, 0.0, "the guard: stop", False, False, 1.0, 1.0, 1)
    assert sum(result.rejected is not None for result in list(told.values())[15:]) < 6, "ten by chance"
