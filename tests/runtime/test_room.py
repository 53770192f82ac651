"""How many workers a group begins with, where what the one before held is not free yet."""

import itertools
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

import raystage.runtime.ray_engine as engine_module
from raystage.runtime.ray_engine import RayEngine
from raystage.training.worker_range import Workers


@pytest.mark.parametrize(
    ("wanted", "room_before", "rooms", "expected"),
    [
        (Workers(1, 2), 2, [1, 1, 2], (2, 2)),  # a worker of the group before still holds its place
        (Workers(1, 2), 3, [1, 3], (3, 2)),
        (Workers(1, 4), 1, [3], (3, 3)),  # nodes have joined
        (Workers(1, 2), 2, [1], (1, 1)),  # a node is gone for good
        (Workers(1, 1), 2, [1], (1, 1)),  # the stage wants no more
    ],
)
def test_a_group_waits_for_the_room_that_was_there(
    monkeypatch: pytest.MonkeyPatch, wanted: Workers, room_before: int, rooms: Sequence[int], expected: tuple[int, int]
) -> None:
    engine, seen = object.__new__(RayEngine), itertools.chain(rooms, itertools.repeat(rooms[-1]))
    engine._stop_asked, engine._hardware = threading.Event(), SimpleNamespace(room=lambda nodes: next(seen))  # type: ignore[assignment]
    monkeypatch.setattr(engine_module, "ray_nodes", list)
    monkeypatch.setattr(engine_module, "_SETTLE_S", 1.0)
    assert engine._wait_for_room(wanted, room_before, print) == expected
