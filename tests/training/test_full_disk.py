"""A disk that is full or away: said, tried again, training goes on; and only past the user's limit it stops."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

import raystage.tracking.records as records_module
from raystage.storage.faults import StorageError
from raystage.tracking.records import DECISIONS_FILE, JsonlWriter, RunRecords, read_records
from raystage.training.checkpoint import CheckpointStore
from raystage.training.checkpoint_writing import CheckpointWriter
from raystage.training.remote_checkpoints import leave_only
from tests.training.made_run import configure, losses, train_here

SHORT = ["training.duration=40 steps", "pacing.lengths=null", "pacing.widths=null", "pacing.at=[0.4]"]
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raystage.storage.patience._FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr("raystage.storage.patience._LONGEST_PAUSE_S", 0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("full")


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunRecords:
    return train_here(configure(folder, [*SHORT, "name=alone"]))


@pytest.fixture
def fail_saves(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], list[int]]:
    """Makes so many saves fail; returns the list of steps that failed."""

    def begin(n_saves: int, error: Exception) -> list[int]:
        save = CheckpointWriter.save
        failed: list[int] = []

        def failing(store: CheckpointWriter, manifest: Any, *rest: Any) -> Path:
            if len(failed) < n_saves:
                failed.append(manifest.counters.step)
                raise error
            return save(store, manifest, *rest)

        monkeypatch.setattr(CheckpointWriter, "save", failing)
        return failed

    return begin


@pytest.mark.parametrize("error", [FULL, SafetensorError("I/O error: No space left on device (os error 28)")])
def test_training_goes_on_and_catches_up(folder: Path, alone: RunRecords, fail_saves: Any, error: Exception) -> None:
    failed = fail_saves(12, error)
    config = configure(folder, [*SHORT, f"name=full-{type(error).__name__}"])
    assert losses(train_here(config)) == losses(alone)
    assert len(failed) == 12
    run_dir = Path(config.storage) / config.name
    texts = [record["text"] for record in read_records(run_dir / "metrics.jsonl") if record["kind"] == "storage"]
    assert "No space left on device" in texts[0]
    assert "works again" in texts[1]
    assert CheckpointStore(run_dir).has_end()


def test_training_never_waits_for_the_disk_before_the_end(folder: Path, alone: RunRecords, fail_saves: Any) -> None:
    """No save succeeds until the last step is done; of the waiting ones the latest is written."""
    failed = fail_saves(10**9, FULL)
    config = configure(folder, [*SHORT, "name=behind", "checkpoint.every_steps=5", "checkpoint.storage_retry_minutes=0.05"])
    with pytest.raises(StorageError, match=r"^writing a checkpoint has failed for \d s \(OSError: .*No space left on device\)$"):
        train_here(config)
    assert set(failed) == {5}
    assert losses(RunRecords.load(Path(config.storage) / "behind")) == losses(alone)


def test_past_the_limit_the_run_stops_early(folder: Path, fail_saves: Any) -> None:
    fail_saves(10**9, FULL)
    config = configure(folder, [*SHORT, "name=given-up", "training.duration=4000 steps", "checkpoint.storage_retry_minutes=0.001"])
    with pytest.raises(StorageError):
        train_here(config)
    assert 10 <= RunRecords.load(Path(config.storage) / "given-up").train[-1]["step"] < 2000


def test_records_that_a_full_disk_does_not_take_wait_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JsonlWriter(tmp_path / "records.jsonl")
    writer.write({"step": 1})

    class FullFile:
        """Takes half of a line, then nothing."""

        def __init__(self, file: Any) -> None:
            self._file, self._n_calls = file, 0

        def write(self, line: bytes) -> int:
            self._n_calls += 1
            if self._n_calls > 1:
                raise FULL
            return int(self._file.write(line[:5]))

        def fileno(self) -> int:
            return int(self._file.fileno())

    whole = writer._file
    monkeypatch.setattr(writer, "_file", FullFile(whole))
    writer.write({"step": 2})
    writer.write({"step": 3})
    assert (tmp_path / "records.jsonl").read_text() == '{"step":1}\n'
    monkeypatch.setattr(writer, "_file", whole)
    writer.write({"step": 4})
    assert [record["step"] for record in read_records(tmp_path / "records.jsonl")] == [1, 2, 3, 4]


def test_a_decision_that_a_full_disk_did_not_take_is_written_with_the_next_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one alone, so that none comes after it; and an attempt that died before is made up for by the next."""
    config = configure(folder, [*SHORT, "name=late"])
    append = records_module._append_whole
    refused: list[bytes] = []

    def fails_once(file: Any, line: bytes) -> bool:
        if str(file.name).endswith(DECISIONS_FILE) and not refused:
            refused.append(line)
            return False
        return append(file, line)

    monkeypatch.setattr(records_module, "_append_whole", fails_once)
    late = train_here(config)
    assert refused
    assert [decision["decision_id"] for decision in late.decisions] == [1]
    decisions = Path(config.storage) / config.name / DECISIONS_FILE
    decisions.write_text("")
    again = train_here(configure(folder, [*SHORT, "name=late", "training.duration=45 steps"]))
    assert again.decisions == late.decisions


def test_checkpoints_that_the_run_does_not_know_are_set_aside(folder: Path, alone: RunRecords) -> None:
    store = CheckpointStore(folder / "runs" / "alone")
    names = [path.name for path in store.folders()]
    leave_only(folder / "runs" / "alone", set(names[1:]))
    assert [path.name for path in store.folders()] == names[1:]
    assert (store.folder / f"stale-{names[0]}").is_dir()
