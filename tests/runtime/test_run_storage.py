"""A checkpoint that rank 0 has chosen, for the ranks of other machines: here already, there, or still on its way there."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raystage.runtime.run_storage as storage_module
from raystage.config import Config
from raystage.devices.ranks import Ranks
from raystage.runtime.remote_run import RemoteRun
from raystage.runtime.run_folder import RunFolder
from raystage.runtime.run_storage import RunStorage
from raystage.storage.patience import Patience
from raystage.training.checkpoint import CheckpointStore, Stored
from raystage.training.errors import CheckpointError
from tests.storage.faulty_store import empty_store
from tests.training.made_run import configure, train_here


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The newest checkpoint of a run, which no mirror has sent anywhere."""
    folder = tmp_path_factory.mktemp("trained")
    train_here(configure(folder, ["name=run", "training.duration=20 steps", "pacing.at=[0.2, 0.4, 0.6]"]))
    return CheckpointStore(folder / "runs" / "run").all()[-1]


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Config]:
    with empty_store():
        yield configure(tmp_path, ["name=run", "storage=faulty://bucket/runs", "checkpoint.storage_retry_minutes=0.1"])


def send(config: Config, stored: Stored) -> None:
    """As rank 0's mirror does, on a machine of its own."""
    elsewhere = RemoteRun.of(config, RunFolder(stored.folder.parents[1]), Patience(1.0))
    assert elsewhere is not None
    elsewhere.checkpoints.send(stored.folder)


def test_one_that_is_on_its_way_is_waited_for(tmp_path: Path, there: Config, trained: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 has begun with what it had written and not sent yet; this rank is on another machine."""
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            send(there, trained)

    monkeypatch.setattr(storage_module, "time", _Clock(nap))
    heard: list[str] = []
    mine = RunStorage(there, tmp_path / "mine" / "run", lambda label, *rest: heard.append(label))
    found = mine.store.with_key(trained.manifest.key)
    assert found.manifest == trained.manifest
    assert found.folder.parent == tmp_path / "mine" / "run" / "checkpoints"
    assert len(naps) == 3
    assert "wait for checkpoint 20" in heard, "a sign of life"


def test_one_that_never_comes_is_an_error_once_the_users_patience_is_over(
    tmp_path: Path, there: Config, trained: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock(lambda seconds: None)
    monkeypatch.setattr(storage_module, "time", clock)
    with pytest.raises(CheckpointError, match="the checkpoint of step 20 is not on node"):
        RunStorage(there, tmp_path / "mine" / "run").store.with_key(trained.manifest.key)
    assert clock.now_s == pytest.approx(6.0), "of storage_retry_minutes"


def test_one_that_is_here_whole_needs_no_store_and_a_damaged_one_does(tmp_path: Path, there: Config, trained: Stored) -> None:
    folder = tmp_path / "mine" / "run"
    here = folder / "checkpoints" / trained.folder.name
    shutil.copytree(trained.folder, here)
    storage = RunStorage(there, folder)
    assert storage.store.with_key(trained.manifest.key).folder == here, "the store is empty: nobody has asked it"
    (here / "model.safetensors").write_bytes(b"\0" * 100)
    send(there, trained)
    storage.store.with_key(trained.manifest.key)
    assert (here / "model.safetensors").read_bytes() == (trained.folder / "model.safetensors").read_bytes()


def test_the_newest_of_here_and_there_is_begun_with(there: Config, tmp_path: Path, trained: Stored) -> None:
    send(there, trained)
    attempt, found = RunStorage(there, tmp_path / "mine" / "run").begin(Ranks())
    assert attempt == 1
    assert found is not None
    assert dataclasses.replace(found, folder=trained.folder) == trained


class _Clock:
    """In which sleeping takes no time."""

    def __init__(self, nap: Callable[[float], None]) -> None:
        self.now_s, self._nap = 0.0, nap

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self._nap(seconds)
