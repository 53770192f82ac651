import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystage.config.schema import Source
from raystage.data.documents import documents
from raystage.data.hf_dataset import dataset_fingerprint
from tests.config.refusal import message_of
from tests.data.made_text import made_documents, write_jsonl

TEXTS = made_documents(600, n_words=5)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's cache nor the network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def made_dataset(texts: list[str] | list[str | None] = TEXTS) -> Any:
    return pytest.importorskip("datasets").Dataset.from_dict({"text": texts, "number": list(range(len(texts)))})


def local(path: Path, **settings: Any) -> Source:
    return Source(kind="dataset", path=str(path), **settings)


def folder_of(kind: str, folder: Path) -> Path:
    path = folder / kind
    if kind == "saved":
        made_dataset().save_to_disk(path)
    elif kind == "saved_splits":
        pytest.importorskip("datasets").DatasetDict(train=made_dataset(), other=made_dataset(["x"])).save_to_disk(path)
    elif kind == "parquet":
        path.mkdir()
        made_dataset().to_parquet(path / "train.parquet")
    else:
        path.mkdir()
        write_jsonl(path / "train.jsonl", TEXTS)
    return path


@pytest.mark.parametrize("kind", ["saved", "saved_splits", "parquet", "jsonl"])
def test_local_folders(tmp_path: Path, kind: str) -> None:
    source = local(folder_of(kind, tmp_path))
    assert list(documents(source)) == TEXTS
    assert dataset_fingerprint(source) == dataset_fingerprint(source)


def test_folder_of_text_files_is_a_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_text("one\n\ntwo\n")
    assert list(documents(local(tmp_path / "plain"))) == ["one", "two"]


def test_stream_stops_at_the_limit(tmp_path: Path) -> None:
    source = local(folder_of("jsonl", tmp_path), streaming=True, max_documents=300)
    assert list(documents(source)) == TEXTS[:300]
    assert dataset_fingerprint(source) == dataset_fingerprint(source)


@pytest.mark.parametrize("streaming", [False, True])
def test_fingerprint_follows_the_content(tmp_path: Path, streaming: bool) -> None:
    folder = folder_of("jsonl", tmp_path)
    before = dataset_fingerprint(local(folder, streaming=streaming))
    write_jsonl(folder / "train.jsonl", [*TEXTS, "more"])
    assert dataset_fingerprint(local(folder, streaming=streaming)) != before


def test_null_rows_are_passed_over_and_bytes_counted(tmp_path: Path) -> None:
    made_dataset(["a", None, "é"]).save_to_disk(tmp_path / "saved")
    pieces: list[int] = []
    assert list(documents(local(tmp_path / "saved"), pieces.append)) == ["a", "é"]
    assert pieces == [1, 2]


def test_what_is_missing_or_wrong_is_one_line(tmp_path: Path) -> None:
    saved, splits, plain = (folder_of(kind, tmp_path) for kind in ("saved", "saved_splits", "jsonl"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"no parquet at all, that is for sure")
    cases = {
        "no column 'body', it has 'text', 'number'; set text_key": local(saved, text_key="body"),
        "column 'number' holds int": local(saved, text_key="number"),
        "no split 'test', it has 'train', 'other'": local(splits, split="test"),
        'Unknown split "test"': local(plain, split="test"),
        "Couldn't find": local(tmp_path / "none"),
        "bad: cannot be loaded": local(tmp_path / "bad"),
        "nobody/nothing: cannot be loaded": Source(kind="dataset", name="nobody/nothing"),
    }
    for complaint, source in cases.items():
        line = message_of(lambda source=source: list(documents(source)))
        assert complaint in line
        assert line.startswith("dataset ")


def test_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in message_of(lambda: list(documents(Source(kind="dataset", name="a/b"))))


def test_streamed_subsets_are_told_apart_and_their_files_followed(tmp_path: Path) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    configs = [{"config_name": name, "data_files": f"{name}/*.jsonl"} for name in ("one", "other")]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    for name in ("one", "other"):
        (folder / name).mkdir()
        write_jsonl(folder / name / "a.jsonl", [f"{name} {text}" for text in TEXTS[:3]])
    one, other = (local(folder, streaming=True, subset=name) for name in ("one", "other"))
    before = dataset_fingerprint(one)
    assert before == dataset_fingerprint(one) != dataset_fingerprint(other)
    assert list(documents(other)) == [f"other {text}" for text in TEXTS[:3]]
    write_jsonl(folder / "one" / "b.jsonl", ["more"])
    assert dataset_fingerprint(one) != before


def test_columns_of_a_streamed_table_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "train.csv").write_text("number,content\n1,one text\n2,another\n")
    line = message_of(lambda: list(documents(local(tmp_path / "table", streaming=True))))
    assert "no column 'text', it has 'number', 'content'; set text_key" in line
    assert list(documents(local(tmp_path / "table", streaming=True, text_key="content"))) == ["one text", "another"]
