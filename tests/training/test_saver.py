"""Checkpoints written behind training's back: in order, complete, and never one after a missing one."""

import errno
import math
import threading
from collections.abc import Container
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raystage.config.schema import Checkpoint
from raystage.growth import TrainingTensors
from raystage.training.checkpoint import unneeded
from raystage.training.checkpoint_writing import CheckpointWriter
from raystage.training.saver import Saver


class Numbered(int):
    """The manifest of these tests."""

    pinned = False


class Pinned(Numbered):
    pinned = True


class MadeStore(CheckpointWriter):
    """Notes what it is given. `gate`: what a write waits for, or, of a disk that `is_full`, what it fails without."""

    def __init__(self, fail_at: int | None = None, is_full: bool = False) -> None:
        self.written: list[tuple[Any, float]] = []
        self.gate, self.has_failed = threading.Event(), threading.Event()
        self._fail_at, self._is_full = fail_at, is_full

    def save(self, manifest: Any, config: Any, tensors: TrainingTensors) -> Path:
        if self._is_full and not self.gate.is_set():
            self.has_failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        assert self.gate.wait(10)
        if manifest == self._fail_at:
            raise RuntimeError("no such tensor")
        self.written.append((manifest, float(tensors.parameters["p"])))
        return Path()

    def retire(self, keep_last: int, keep_best: int, spared: Container[str] = ()) -> None:
        pass


def tensors(value: float) -> TrainingTensors:
    return TrainingTensors({"p": torch.tensor(value)}, {"p": {"step": torch.tensor(1.0)}})


def save(saver: Saver, number: int, state: TrainingTensors, frozen: bool = False) -> None:
    manifest = number if isinstance(number, Numbered) else Numbered(number)
    saver.save(manifest, None, state, frozen=frozen)  # type: ignore[arg-type]


def test_what_is_written_is_what_was_handed_over_in_that_order() -> None:
    store, state = MadeStore(), tensors(1.0)
    with Saver(store, Checkpoint()) as saver:
        save(saver, 1, state)
        state.parameters["p"].fill_(2.0)
        save(saver, 2, state)
        state.parameters["p"].fill_(3.0)
        assert not store.written  # nobody has waited for the writer
        store.gate.set()
    assert store.written == [(1, 1.0), (2, 2.0)]


def test_no_more_than_two_copies_wait() -> None:
    store, state = MadeStore(), tensors(1.0)
    with Saver(store, Checkpoint()) as saver:
        save(saver, 1, state)
        save(saver, 2, state)
        threading.Timer(0.2, store.gate.set).start()
        save(saver, 3, state)
        assert [number for number, _ in store.written][:1] == [1]


def test_on_a_full_disk_the_latest_waits_and_what_is_pinned_is_kept() -> None:
    """The state before a growth comes once, between two that others replace; training waits for none of them."""
    store, state = MadeStore(is_full=True), tensors(1.0)
    with Saver(store, Checkpoint()) as saver:
        save(saver, 1, state)
        assert store.has_failed.wait(10)
        for number in (2, Pinned(3), 4, 5, Pinned(6), 7):
            save(saver, number, state)
        store.gate.set()
    assert [number for number, _ in store.written] == [1, 3, 6, 7]


@pytest.mark.parametrize("is_full", [True, False])
def test_who_waits_for_a_full_disk_shows_that_he_is_alive_and_for_a_write_that_hangs_does_not(
    monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    monkeypatch.setattr("raystage.training.saver._LOOK_EVERY_S", 0.01)
    store, state, signs = MadeStore(is_full=is_full), tensors(1.0), []

    def alive() -> None:
        signs.append(1)
        store.gate.set()

    with Saver(store, Checkpoint(), alive=alive) as saver:
        save(saver, 1, state)
        if is_full:
            assert store.has_failed.wait(10)
        else:
            threading.Timer(0.1, store.gate.set).start()
    assert bool(signs) == is_full
    assert len(store.written) == 1


def test_after_an_error_nothing_more_is_written_and_the_next_call_says_so() -> None:
    store = MadeStore(fail_at=1)
    saver = Saver(store, Checkpoint())
    save(saver, 1, tensors(1.0))
    save(saver, 2, tensors(1.0))
    store.gate.set()
    with pytest.raises(RuntimeError, match="no such tensor"):
        save(saver, 3, tensors(1.0))
    saver.wait()
    assert store.written == []


def test_an_error_at_the_end_is_raised_but_hides_no_other() -> None:
    def run(own: RuntimeError | None) -> None:
        store = MadeStore(fail_at=1)
        store.gate.set()
        with Saver(store, Checkpoint()) as saver:
            save(saver, 1, tensors(1.0))
            if own:
                raise own

    with pytest.raises(RuntimeError, match="no such tensor"):
        run(None)
    with pytest.raises(RuntimeError, match="loss is nan") as caught:
        run(RuntimeError("loss is nan"))
    assert caught.value.__notes__ == ["and the last checkpoint could not be written: no such tensor"]


def test_frozen_tensors_are_not_copied() -> None:
    store, state = MadeStore(), tensors(1.0)
    with Saver(store, Checkpoint()) as saver:
        save(saver, 1, state, frozen=True)
        state.parameters["p"].fill_(5.0)  # what nobody does; it shows that there is no copy
        store.gate.set()
    assert store.written == [(1, 5.0)]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "gone"), [(1, 1, [1, 4, 5]), (1, 0, [1, 2, 4, 5]), (2, 2, [1, 4]), (9, 0, []), (1, 9, [4, 5])]
)
def test_the_latest_the_best_and_the_pinned_are_needed(keep_last: int, keep_best: int, gone: list[int]) -> None:
    """Losses at steps 1 to 6, of which step 3 is pinned: one that is not finite is never among the best, nor one never measured."""
    val_losses = dict(enumerate([3.0, 1.0, 2.0, None, math.nan, 2.5], start=1))
    stored: list[Any] = [
        SimpleNamespace(folder=Path(str(step)), manifest=SimpleNamespace(pinned=step == 3, val_loss=loss, key=(step, 0, 1)))
        for step, loss in val_losses.items()
    ]
    assert [int(each.folder.name) for each in unneeded(stored, keep_last, keep_best)] == gone


def test_checkpoints_are_in_the_order_of_steps_and_attempts(tmp_path: Path) -> None:
    store = CheckpointWriter(tmp_path)
    for name in ("00000040-9-end", "00000040-10-stop", "00000008-11-0"):
        (store.folder / name).mkdir(parents=True)
    assert [folder.name for folder in store.folders()] == ["00000008-11-0", "00000040-9-end", "00000040-10-stop"]
    assert not store.has_end(), "attempt 10 went on after the end of attempt 9"
