"""How many workers a group begins with, where what the one before held is not free yet; and how the engine takes a group's end."""

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

import raystage.runtime.ray_engine as engine_module
from raystage.config import from_tree
from raystage.runtime.engine import EngineError
from raystage.runtime.ray_engine import RayEngine
from raystage.runtime.ray_failure import GroupEnd
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


@pytest.mark.parametrize(("asked", "reached_step"), [(True, 7), (True, -1), (False, 7)])
def test_a_group_that_fails_while_it_is_to_stop_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: bool, reached_step: int
) -> None:
    """Nobody goes on then, and steps may be lost, where there were any. Without a stop another group follows."""
    engine, config = object.__new__(RayEngine), from_tree({})
    for name in ("DriverController", "Restarts", "Spares", "Group", "Fit", "places", "ray_nodes"):
        monkeypatch.setattr(engine_module, name, mock.Mock())
    monkeypatch.setattr(
        engine_module, "GroupWatch", mock.Mock(return_value=mock.Mock(is_restarting=False, room=1, position=0, reached_step=reached_step))
    )
    engine._runtime, engine._hardware, engine._backend = config.runtime, mock.Mock(keeps_spares=False), mock.Mock()
    engine._evaluations, engine._stop_asked = None, mock.Mock(is_set=lambda: asked)
    ends = iter([GroupEnd(error="worker 0 is gone"), GroupEnd("finished")])
    monkeypatch.setattr(engine, "_wait_for_room", lambda *_: (1, 1))
    monkeypatch.setattr(engine, "_follow", lambda *_: next(ends))
    assignment = mock.Mock(config=config, run_dir=tmp_path)
    if asked and reached_step >= 0:
        with pytest.raises(EngineError, match="the workers failed on their way out: worker 0 is gone; the same command goes on"):
            engine._train(assignment, None, print)
    else:
        assert engine._train(assignment, None, print) is not asked
