import random
from collections.abc import Iterator

import pytest

from raystage.data.mixture import mix


def lengths(seed: int, n: int, longest: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(1, longest) for _ in range(n)]


def run(sizes: list[list[int]], weights: list[float]) -> list[tuple[int, int]]:
    streams: list[Iterator[int]] = [iter(stream) for stream in sizes]
    return list(mix(streams, weights, lambda size: size))


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [0.2, 0.7], [1, 2, 4], [5, 1, 1, 1]])
def test_shares_follow_the_weights_at_every_point(weights: list[float]) -> None:
    sizes = [lengths(seed, 4000, 100 + 300 * seed) for seed in range(len(weights))]
    used, longest = [0] * len(weights), [max(stream) for stream in sizes]
    n_items = 0
    for turn, size in run(sizes, weights):
        used[turn] += size
        n_items += 1
        for i, weight in enumerate(weights):
            ahead = used[i] - weight / sum(weights) * sum(used)
            assert ahead <= longest[i] + 1e-6
            assert -ahead <= sum(longest) - longest[i] + 1e-6
    assert n_items > 3000


def test_two_streams_differ_from_their_share_by_one_item_at_most() -> None:
    used = [0, 0]
    for turn, size in run([[10] * 500, [10] * 500], [3, 1]):
        used[turn] += size
        assert abs(used[0] - 0.75 * sum(used)) <= 10


def test_every_stream_keeps_its_order() -> None:
    sizes = [lengths(1, 50, 9), lengths(2, 50, 9)]
    mixed = run(sizes, [1, 1])
    for i in (0, 1):
        mine = [size for turn, size in mixed if turn == i]
        assert mine == sizes[i][: len(mine)]


def test_ends_when_the_stream_whose_turn_it_is_has_no_more() -> None:
    assert run([[1, 1, 1, 1, 1, 1], [1, 1]], [1, 1]) == [(0, 1), (1, 1), (0, 1), (1, 1), (0, 1)]


def test_one_stream_passes_whole() -> None:
    assert run([[3, 0, 2]], [0.1]) == [(0, 3), (0, 0), (0, 2)]


def test_items_of_no_tokens_do_not_move_the_shares() -> None:
    mixed = run([[1, 0, 0, 1, 1], [1, 1, 1]], [1, 1])
    assert [turn for turn, size in mixed if size] == [0, 1, 0, 1, 0, 1]
