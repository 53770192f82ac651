"""What the controller's actor knows of the workers, without a cluster."""

from types import SimpleNamespace
from typing import Any

import pytest

import raystage.runtime.controller_actor as actor_module
from raystage.runtime.controller_actor import ControllerShell, Worker, signs_of_life
from tests.pacing.curves import slope_policy

HERE, THERE = Worker("node-1", 11, "{}"), Worker("node-2", 22, "{}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=100.0, n_calls=0)

    def time_ns() -> int:
        clock.n_calls += 1
        return clock.n_calls

    monkeypatch.setattr(actor_module, "time", SimpleNamespace(monotonic=lambda: clock.now_s, time_ns=time_ns))
    return clock


def test_a_worker_that_joins_again_is_alive_and_nothing_new(clock: SimpleNamespace) -> None:
    shell = ControllerShell(slope_policy())
    shell.begin_group()
    shell.join(0, HERE)
    word = shell.ask(None, version=-1)
    assert (word.workers, word.age_s) == ({0: HERE}, 0.0)
    clock.now_s += 50
    assert shell.ask(None, word.version).age_s == 50
    shell.join(0, HERE)
    again = shell.ask(None, word.version)
    assert (again.age_s, again.workers, again.version) == (0.0, None, word.version), "a thousand workers are not sent again for it"
    shell.join(0, THERE)
    assert shell.ask(None, word.version).workers == {0: THERE}


def test_signs_of_life_are_given_now_and_then_while_something_arrives(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "here", staticmethod(lambda: HERE))
    told: list[Any] = []
    actor: Any = SimpleNamespace(join=SimpleNamespace(remote=lambda rank, worker: told.append((clock.now_s, rank, worker))))
    progress = signs_of_life(actor, rank=3)
    for _ in range(25):
        progress("fetch corpus", 0, None)
        clock.now_s += 1
    assert told == [(110.0, 3, HERE), (120.0, 3, HERE)]
