"""How many threads a worker takes, and that those of CPUs stay near their memory."""

import pytest

from raystage.config.schema import Runtime
from raystage.devices.device import pick_device
from raystage.runtime import worker
from raystage.runtime.worker import settle


@pytest.mark.parametrize(("said", "n_here", "expected"), [(None, 1, 7), (None, 2, 3), (None, 20, 1), (5, 2, 5)])
def test_cores_are_shared_out_unless_it_is_said(said: int | None, n_here: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[int, int]] = []
    monkeypatch.setattr(worker, "n_cores", lambda: 7 if not kept else 2)  # a worker that is bound sees its own alone
    monkeypatch.setattr(worker, "keep_near_memory", lambda place, n_here: kept.append((place, n_here)))
    assert settle(pick_device("cpu"), Runtime(threads_per_worker=said), 0, n_here) == expected
    assert kept == [(0, n_here)]
