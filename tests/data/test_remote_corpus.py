"""Prepared corpora at a URI: uploaded once, downloaded once a node, checked before they are used."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raystage.config import ConfigError
from raystage.config.schema import Data
from raystage.data.corpus import Corpus
from raystage.data.prepare import is_prepared, prepare
from raystage.data.remote_corpus import fetch_corpus
from raystage.devices.ranks import Ranks
from raystage.runtime.node_corpus import corpus_on_every_node
from raystage.storage.patience import Patience
from tests.data.made_text import made_data, made_documents
from tests.storage.faulty_store import FAULTS, FaultyFileSystem, empty_store, set_faults, stored

URI = "faulty://bucket/data"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("raystage.storage.patience._FIRST_PAUSE_S", 0.005)
    with empty_store():
        yield


def data_on(tmp_path: Path, node: str) -> Data:
    return dataclasses.replace(made_data(tmp_path, made_documents(60)), cache_dir=URI, node_cache_dir=str(tmp_path / node))


def on_node(data: Data, corpus: Corpus) -> Corpus:
    """What a worker on the node of `data` finds."""
    return corpus_on_every_node(data, corpus.folder, Ranks(), Patience(1.0))


def test_prepared_on_one_node_and_downloaded_once_by_another(tmp_path: Path) -> None:
    made = prepare(data_on(tmp_path, "one"))
    assert {Path(path).name for path in stored(made.folder.name)} >= {"train.bin", "validation.bin", "tokenizer.json", "corpus.json"}
    other = data_on(tmp_path, "two")
    found = on_node(other, made)
    assert found.folder == tmp_path / "two" / made.folder.name
    assert dataclasses.replace(found, folder=made.folder) == made
    FAULTS.calls = 0
    assert on_node(other, made) == found
    assert FAULTS.calls == 0


def test_a_download_gives_signs_of_life_up_to_its_last_byte(tmp_path: Path) -> None:
    made = prepare(data_on(tmp_path, "one"))
    heard: list[tuple[str, int, int | None]] = []
    fetch_corpus(
        data_on(tmp_path, "two"), made.folder.name, Patience(1.0), lambda label, done, total, unit="": heard.append((label, done, total))
    )
    size_bytes = sum(path.stat().st_size for path in made.folder.iterdir())
    assert heard[0] == (f"fetch corpus {made.folder.name}", 0, size_bytes)
    assert heard[-1][1] == size_bytes


def test_a_second_prepare_elsewhere_builds_nothing(tmp_path: Path) -> None:
    made = prepare(data_on(tmp_path, "one"))
    heard: list[object] = []
    prepare(data_on(tmp_path, "two"), lambda *call: heard.append(call))
    assert not heard
    shutil.rmtree(made.folder)
    assert prepare(data_on(tmp_path, "one")) == made


def test_a_corpus_in_the_store_is_prepared_for_every_machine(tmp_path: Path) -> None:
    assert not is_prepared(data_on(tmp_path, "one"), Patience(1.0))
    prepare(data_on(tmp_path, "one"))
    assert is_prepared(data_on(tmp_path, "two"), Patience(1.0))


@pytest.mark.parametrize("faults", [{"every": 2}, {"away": 5}, {"cut_short": 2}, {"broken_off": 2}])
def test_a_store_that_fails_for_a_while_gets_it_whole(tmp_path: Path, faults: dict[str, int]) -> None:
    set_faults(**faults, only="bin")
    made = prepare(data_on(tmp_path, "one"))
    assert FAULTS.failed >= 1
    on_node(data_on(tmp_path, "two"), made).verify()


def test_an_upload_that_was_cut_short_does_not_exist(tmp_path: Path) -> None:
    made = prepare(data_on(tmp_path, "one"))
    del FaultyFileSystem.store[f"/bucket/data/{made.folder.name}/corpus.json"]
    assert fetch_corpus(data_on(tmp_path, "two"), made.folder.name, Patience(1.0)) is None
    with pytest.raises(ConfigError, match="no prepared corpus there any more; run raystage prepare"):
        on_node(data_on(tmp_path, "two"), made)


def test_a_damaged_file_is_never_used(tmp_path: Path) -> None:
    made = prepare(data_on(tmp_path, "one"))
    file = FaultyFileSystem.store[f"/bucket/data/{made.folder.name}/train.bin"]
    file.seek(8)
    file.write(b"\xff\xff")
    with pytest.raises(ConfigError, match=r"damaged .*train\.bin.*; delete it there and run raystage prepare"):
        on_node(data_on(tmp_path, "two"), made)
    assert not (tmp_path / "two" / made.folder.name).exists()


def test_a_path_that_a_node_does_not_see_is_one_line(tmp_path: Path) -> None:
    data = made_data(tmp_path, made_documents(60))
    made = prepare(data)
    assert on_node(data, made) == made
    shutil.rmtree(made.folder)
    with pytest.raises(ConfigError, match=r"prepared rows in .* are not on node .*: share the folder or make data.cache_dir a URI"):
        on_node(data, made)
