"""Files elsewhere: whole or not there, whatever the store does; and how long it is asked again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raystage.config import ConfigError
from raystage.storage.address import is_uri, local_folder_of
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience, Trouble
from raystage.storage.remote import RemoteFolder
from tests.storage.faulty_store import FAULTS, empty_store, set_faults, stored


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("raystage.storage.patience._FIRST_PAUSE_S", 0.002)
    with empty_store():
        yield


def opened(uri: str = "faulty://b/run", limit_s: float = 5.0, said: list[Trouble] | None = None) -> RemoteFolder:
    return RemoteFolder.open(uri, "storage", Patience(limit_s, (said if said is not None else []).append))


@pytest.mark.parametrize("uri", ["faulty://b/run", "memory://b/run", "file://{}/run"])
def test_what_is_put_is_listed_fetched_and_deleted(tmp_path: Path, uri: str) -> None:
    remote = opened(uri.format(tmp_path))
    (tmp_path / "here").write_bytes(b"content")
    assert remote.names() == {}
    remote.put(tmp_path / "here", "deep/er/file")
    remote.write("small", b"12")
    assert remote.names() == {"deep/er/file": 7, "small": 2}
    remote.get("deep/er/file", tmp_path / "back" / "file")
    assert (tmp_path / "back" / "file").read_bytes() == b"content"
    assert remote.read("small") == b"12"
    remote.write("small", b"again")
    assert remote.below("deep").names() == {"er/file": 7}
    remote.delete(["small", "small", "nothing"])
    assert remote.read("small") is None
    with pytest.raises(FileNotFoundError):
        remote.get("small", tmp_path / "never")
    with pytest.raises(FileNotFoundError):
        remote.put(tmp_path / "gone", "x")


@pytest.mark.parametrize("faults", [{"every": 2}, {"away": 4}, {"cut_short": 2}, {"broken_off": 2}])
def test_what_fails_for_a_while_arrives_whole(tmp_path: Path, faults: dict[str, int]) -> None:
    (tmp_path / "here").write_bytes(bytes(range(256)))
    set_faults(**faults)
    for number in range(3):
        opened().put(tmp_path / "here", str(number))
    assert FAULTS.failed >= 1
    set_faults()
    assert set(stored().values()) == {bytes(range(256))}


def test_trouble_is_said_once_then_every_minute_and_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Trouble] = []
    set_faults(away=20)
    monkeypatch.setattr("raystage.storage.patience._LONGEST_PAUSE_S", 0.005)
    opened(said=said).write("a", b"1")
    assert [trouble.is_over for trouble in said] == [False, True]
    assert str(said[0]) == "storage: writing faulty://b/run/a fails (ConnectionError: no route to the store); trying again"
    said.clear()
    set_faults(away=20)
    monkeypatch.setattr("raystage.storage.patience._SAY_EVERY_S", 0.0)
    opened(said=said).write("a", b"1")
    assert len(said) == 21


def test_past_the_limit_the_error_names_file_reason_and_time() -> None:
    set_faults(full=True)
    with pytest.raises(StorageError, match=r"^writing faulty://b/run/a has failed for 0 s \(OSError: .*quota exceeded\)$"):
        opened(limit_s=0.05).write("a", b"1")


def test_an_ended_patience_waits_no_longer() -> None:
    patience = Patience(1e9)
    patience.end()
    set_faults(away=10**9)
    with pytest.raises(StorageError):
        patience.call("asking", lambda: FAULTS.meet("x", writes=False))
    assert not patience.is_tried


def test_a_mistake_of_the_program_is_not_tried_again() -> None:
    calls = []

    def mistaken() -> None:
        calls.append(1)
        raise KeyError("x")

    with pytest.raises(KeyError):
        Patience(5.0).call("asking", mistaken)
    assert len(calls) == 1


def test_addresses() -> None:
    assert is_uri("s3://bucket/runs")
    assert is_uri("memory://x")
    assert not is_uri("/runs")
    assert not is_uri("runs")
    assert local_folder_of("s3://a-b/c", "/cache") != local_folder_of("s3://a/b-c", "/cache")
    assert local_folder_of("s3://a/b/", "/cache") == local_folder_of("s3://a/b", "/cache")


@pytest.mark.parametrize(("uri", "part"), [("gs://b", "pip install gcsfs"), ("nothing://b", "Protocol not known: nothing")])
def test_a_uri_that_cannot_be_opened_is_one_line(uri: str, part: str) -> None:
    with pytest.raises(ConfigError, match=f"storage={uri}: .*{part}"):
        opened(uri)


@pytest.mark.parametrize("scheme", ["faulty", "file"])
def test_a_download_tells_how_much_of_it_has_arrived(scheme: str, tmp_path: Path) -> None:
    remote = opened(f"file://{tmp_path}/there" if scheme == "file" else "faulty://b/run")
    remote.write("a", b"12345")
    arrived: list[int] = []
    remote.get("a", tmp_path / "here", arrived.append)
    assert arrived[-1] == 5
