"""Which checkpoint a rollback goes to."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from raystage.devices.ranks import Ranks
from raystage.training.rollback import choose_target


class Checkpoints:
    """A store of (step, rollbacks behind, reason)."""

    def __init__(self, *stored: tuple[int, int, str]) -> None:
        self._manifests = [
            SimpleNamespace(counters=SimpleNamespace(step=step, n_rollbacks=n), reason=reason, key=(step, 0, 1))
            for step, n, reason in stored
        ]

    def latest_good(self, among: Callable[[Any], bool]) -> Any:
        wanted = [SimpleNamespace(manifest=manifest) for manifest in self._manifests if among(manifest)]
        return wanted[-1] if wanted else None


def chosen(store: Checkpoints, last_good_step: int, *rollbacks: dict[str, int]) -> int | None:
    found = choose_target(store, last_good_step, rollbacks, 10, Ranks())  # type: ignore[arg-type]
    return None if found is None else found.manifest.counters.step


FIRST = {"n_rollbacks": 1, "check_step": 400, "restored_step": 200}


def test_the_newest_before_the_trouble() -> None:
    assert chosen(Checkpoints((200, 0, "interval"), (400, 0, "interval")), 390) == 200
    assert chosen(Checkpoints((400, 0, "interval")), 390) is None


def test_never_into_the_trouble_of_an_earlier_rollback() -> None:
    """The spike of steps 391 to 400 is in the checkpoint of step 400, which the run had left behind at step 410."""
    store = Checkpoints((100, 0, "interval"), (200, 0, "interval"), (400, 0, "interval"), (410, 1, "rollback"))
    assert chosen(store, 440, FIRST) == 100, "200 has been gone back to, 410 is 200 again, and 400 holds the spike"
    assert chosen(Checkpoints((200, 0, "interval"), (400, 0, "interval"), (410, 1, "rollback")), 440, FIRST) == 410


def test_a_checkpoint_since_the_last_rollback_is_good() -> None:
    assert chosen(Checkpoints((200, 0, "interval"), (400, 0, "interval"), (430, 1, "interval")), 440, FIRST) == 430
