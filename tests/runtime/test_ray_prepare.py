"""Rows made on a cluster are those made in one process, whoever dies on the way."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from raystage.config import Config, ConfigError
from raystage.config.schema import Data, Runtime, Source, Tokenizer
from raystage.data.corpus import TRAIN, VALIDATION, Corpus
from raystage.data.encoding import EncodedDocument
from raystage.data.prepare import prepare
from raystage.data.progress import no_progress
from raystage.runtime import ray_prepare
from raystage.runtime.driver import prepare_corpus
from raystage.runtime.ray_prepare import ClusterTasks
from tests.data.made_text import SUFFIXES, made_documents, packed, write_jsonl

pytestmark = pytest.mark.long

N_TEXTS = 7


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Source, ...]:
    """Packed and plain lines, and texts of which one is long enough to be cut and one is blank."""
    for i, suffix in enumerate(SUFFIXES):
        write_jsonl(tmp_path / f"lines-{i}.jsonl{suffix}", made_documents(40, seed=i))
    for i in range(N_TEXTS):
        text = "\n\n".join(made_documents(3000 if i == 3 else 20, seed=100 + i)) if i != 5 else " \n"
        (tmp_path / f"text-{i}.txt").write_bytes(packed(text.encode(), ""))
    return (
        Source(kind="jsonl", path=str(tmp_path / "lines-*"), weight=1.0, max_documents=130),
        Source(kind="text", path=str(tmp_path / "text-*.txt"), weight=3.0),
    )


def config_of(folder: Path, name: str, sources: tuple[Source, ...], address: str | None = None, **changes: object) -> Config:
    data = Data(sources=sources, tokenizer=Tokenizer(vocab_size=400), validation_fraction=0.1, cache_dir=str(folder / name))
    changed = dataclasses.replace(data, **changes)  # type: ignore[arg-type]
    return Config(name="a-run", data=changed, runtime=Runtime(engine="ray", address=address))


def content(corpus: Corpus) -> tuple[bytes, bytes, Corpus]:
    train, validation = ((corpus.folder / name).read_bytes() for name in (TRAIN, VALIDATION))
    return train, validation, dataclasses.replace(corpus, folder=Path())


def test_the_rows_of_one_process_bit_for_bit(
    tmp_path: Path, sources: tuple[Source, ...], cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    encode = ClusterTasks.__call__

    def asking(tasks: ClusterTasks, source: Source, *others: Any) -> Iterator[EncodedDocument]:
        asked.append(source)
        return encode(tasks, source, *others)

    monkeypatch.setattr(ClusterTasks, "__call__", asking)
    monkeypatch.setattr(ray_prepare, "_TASK_BYTES", 10_000)  # several tasks a source, some of several files
    here = prepare_corpus(config_of(tmp_path, "here", sources), no_progress, print)
    assert asked == []
    heard: list[tuple[str, int, int | None]] = []

    def progress(label: str, done: int, total: int | None, unit: str = "bytes") -> None:
        heard.append((label, done, total))

    there = prepare_corpus(config_of(tmp_path, "there", sources, cluster), progress, print)
    assert asked == list(sources)
    assert content(there) == content(here)
    assert heard[-1][1] == heard[-1][2]


def test_validation_text_of_its_own_is_dropped_there_too(tmp_path: Path, sources: tuple[Source, ...], cluster: str) -> None:
    held_out = write_jsonl(tmp_path / "held-out.jsonl", made_documents(40, seed=1)[:10])
    changes: dict[str, Any] = {"validation_sources": (Source(kind="jsonl", path=str(held_out)),)}
    here = prepare(config_of(tmp_path, "here", sources[:1], **changes).data)
    config = config_of(tmp_path, "there", sources[:1], cluster, **changes)
    assert content(prepare(config.data, encode_files=ClusterTasks(print))) == content(here)
    assert here.n_dropped_documents == 10


def test_a_killed_worker_is_made_good(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        write_jsonl(tmp_path / f"lines-{i}.jsonl", made_documents(200, seed=i, n_words=1500))
    sources = (Source(kind="jsonl", path=str(tmp_path / "lines-*")),)
    tokenizer = Tokenizer(vocab_size=300, train_bytes=10_000)
    monkeypatch.setattr(ray_prepare, "_TASK_BYTES", 1)  # each file a task of some tenths of a second
    killed: list[int] = []
    killer = threading.Thread(target=_kill_one, args=(killed,))
    killer.start()
    there = prepare_corpus(config_of(tmp_path, "there", sources, cluster, tokenizer=tokenizer), no_progress, print)
    killer.join()
    assert len(killed) == 1
    assert content(there) == content(prepare_corpus(config_of(tmp_path, "here", sources, tokenizer=tokenizer), no_progress, print))


def _kill_one(killed: list[int]) -> None:
    end_s = time.monotonic() + 60
    while not killed and time.monotonic() < end_s:
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::_encode"):
                time.sleep(0.1)  # in the middle
                process.kill()
                killed.append(process.pid)
                return
        time.sleep(0.02)


def test_a_broken_line_is_one_line_here(tmp_path: Path, sources: tuple[Source, ...], cluster: str) -> None:
    (tmp_path / "lines-2.jsonl").write_text('{"text": "a"}\n{"text": 1}\n')
    config = config_of(tmp_path, "there", sources, cluster, tokenizer=Tokenizer(vocab_size=300, train_bytes=100))
    with pytest.raises(ConfigError) as error:
        prepare_corpus(config, no_progress, print)
    assert str(error.value) == f"{tmp_path}/lines-2.jsonl line 2: field 'text' holds int, must be text; mend the line or set text_key"
    assert [path.name for path in (tmp_path / "there").iterdir()] == []


@pytest.mark.parametrize(("text", "seen"), [(None, "is not there on node"), ("abd", "has other content on node")])
def test_a_file_that_another_node_does_not_share(tmp_path: Path, text: str | None, seen: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    ((file,),) = ray_prepare._parts([path])
    ray_prepare._check_same(file)
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=f"{seen} .*; share the files of the sources between all nodes"):
        ray_prepare._check_same(file)


def test_what_lies_beyond_the_limit_may_be_broken(tmp_path: Path, cluster: str) -> None:
    for i in range(3):
        write_jsonl(tmp_path / f"lines-{i}.jsonl", made_documents(40, seed=i))
    with (tmp_path / "lines-1.jsonl").open("a") as file:
        file.write("{")
    sources = (Source(kind="jsonl", path=str(tmp_path / "lines-*"), max_documents=70),)
    here, there = (prepare_corpus(config_of(tmp_path, name, sources, at), no_progress, print) for name, at in (("h", None), ("t", cluster)))
    assert content(there) == content(here)
