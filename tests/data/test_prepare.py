import dataclasses
import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raystage.config.schema import Data, Source, Tokenizer
from raystage.data import build
from raystage.data.corpus import Corpus
from raystage.data.encoding import EncodedDocument, encode_texts
from raystage.data.files import OnBytes
from raystage.data.prepare import gives, prepare
from raystage.data.split import HoldOut, Side, SideOf
from raystage.data.tokenizer import TextTokenizer
from tests.config.refusal import message_of
from tests.data.made_text import made_data, made_documents, write_jsonl

ROOT = Path(__file__).parents[2]
TEXTS = made_documents(60)


def stream(corpus: Corpus, name: str) -> list[int]:
    return np.fromfile(corpus.folder / name, dtype="<u2" if corpus.vocab_size <= 65536 else "<u4").tolist()


def stored_documents(corpus: Corpus, name: str) -> list[str]:
    """The texts between the end-of-text tokens."""
    parts: list[list[int]] = [[]]
    for token in stream(corpus, name):
        if token == corpus.eot_id:
            parts.append([])
        else:
            parts[-1].append(token)
    tokenizer = corpus.tokenizer()
    return [str(tokenizer.decode(part)) for part in parts]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def word_tokenizer(folder: Path, n_words: int) -> Tokenizer:
    """Entry i is the word `w<i>`; end-of-text is the last one."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    vocab = {f"w{i}": i for i in range(n_words - 1)} | {"<|endoftext|>": n_words - 1}
    backend = Backend(models.WordLevel(vocab, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer(kind="file", path=str(folder / "tokenizer.json"))


@pytest.mark.parametrize(("n_words", "item_bytes"), [(100, 2), (65536, 2), (65537, 4), (70000, 4)])
def test_packing_token_by_token(tmp_path: Path, n_words: int, item_bytes: int) -> None:
    eot, high = n_words - 1, n_words - 2
    texts = ["w1 w2 w3", "w4", f"w{high} w5 w6 w7"]
    validation = write_jsonl(tmp_path / "validation.jsonl", ["w9 w8", "w8 w9"])
    sources = (Source(kind="jsonl", path=str(validation)),)
    corpus = prepare(made_data(tmp_path, texts, validation_sources=sources, tokenizer=word_tokenizer(tmp_path, n_words)))
    expected = [1, 2, 3, eot, 4, eot, high, 5, 6, 7]
    assert stream(corpus, "train.bin") == expected
    assert stream(corpus, "validation.bin") == [9, 8, eot, 8, 9]
    assert (corpus.folder / "train.bin").stat().st_size == item_bytes * 10
    assert (corpus.n_train_tokens, corpus.n_validation_tokens, corpus.n_train_documents, corpus.n_validation_documents) == (10, 5, 3, 2)
    assert (corpus.vocab_size, corpus.eot_id, corpus.n_train_bytes) == (n_words, eot, sum(map(len, texts)))
    rows = corpus.train_rows(4)[:]
    assert rows.tolist() == [expected[0:5], expected[4:9]]
    assert corpus.validation_rows(4)[[0]].tolist() == [[9, 8, eot, 8, 9]]


def test_documents_come_back_in_order_each_on_its_side(tmp_path: Path) -> None:
    corpus = prepare(made_data(tmp_path, TEXTS))
    held_out = [text for text in TEXTS if HoldOut(0.2).side(text) is Side.VALIDATION]
    assert 3 < len(held_out) < 30
    assert stored_documents(corpus, "train.bin") == [text for text in TEXTS if text not in held_out]
    assert stored_documents(corpus, "validation.bin") == held_out
    assert (corpus.vocab_size, corpus.n_validation_documents) == (300, len(held_out))


def test_copies_never_lie_on_both_sides(tmp_path: Path) -> None:
    corpus = prepare(made_data(tmp_path, [*TEXTS, *reversed(TEXTS)]))
    sides = [set(stored_documents(corpus, name)) for name in ("train.bin", "validation.bin")]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(TEXTS)


def test_own_validation_text_is_left_out_of_training(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "validation.jsonl", TEXTS[:5])
    corpus = prepare(made_data(tmp_path, TEXTS, validation_sources=(Source(kind="jsonl", path=str(path)),)))
    assert stored_documents(corpus, "validation.bin") == TEXTS[:5]
    assert stored_documents(corpus, "train.bin") == TEXTS[5:]
    assert corpus.n_dropped_documents == 5


def test_end_of_text_spelled_out_is_not_the_token(tmp_path: Path) -> None:
    texts = [f"{text} <|endoftext|> and on" for text in TEXTS]
    corpus = prepare(made_data(tmp_path, texts))
    n_eot = stream(corpus, "train.bin").count(corpus.eot_id)
    assert n_eot == corpus.n_train_documents - 1
    assert stored_documents(corpus, "train.bin")[0] == texts[0]


def test_tokenizer_of_the_corpus_is_transformers_own(tmp_path: Path) -> None:
    corpus = prepare(made_data(tmp_path, TEXTS))
    tokenizer = corpus.tokenizer()
    odd = "\tdef f():\r\n\t\treturn 'naïve 🚂 , .'  # n't\n"
    assert tokenizer.decode(tokenizer.encode(odd)) == odd
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == corpus.eot_id
    assert len(tokenizer) == corpus.vocab_size


def test_second_call_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made_data(tmp_path, TEXTS)
    first = prepare(data)
    before = snapshot(tmp_path / "cache")
    monkeypatch.setattr("raystage.data.prepare.build_corpus", lambda *arguments: pytest.fail("built again"))
    assert prepare(data) == first == Corpus.load(first.folder)
    assert snapshot(tmp_path / "cache") == before


def test_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    texts = made_documents(100, n_words=2000)
    data = made_data(tmp_path, texts, tokenizer=Tokenizer(vocab_size=300, train_bytes=20_000))
    contents = []
    for threads in (1, 3):
        changed = dataclasses.replace(data, processes=threads, cache_dir=str(tmp_path / f"cache{threads}"))
        corpus = prepare(changed)
        contents.append((corpus.digest, (corpus.folder / "corpus.json").read_text()))
    assert contents[0] == contents[1]


def digest_of(data: Data) -> str:
    return prepare(data).digest


def test_digest_follows_content_and_settings_alone(tmp_path: Path) -> None:
    data = made_data(tmp_path, TEXTS)
    (source,) = data.sources
    first = digest_of(data)

    moved = tmp_path / "moved"
    moved.mkdir()
    assert digest_of(dataclasses.replace(made_data(moved, TEXTS), processes=1, attend_across_documents=False)) == first
    assert digest_of(dataclasses.replace(data, sources=(dataclasses.replace(source, weight=7.0),))) == first

    changes = [
        dataclasses.replace(data, validation_fraction=0.3),
        dataclasses.replace(data, tokenizer=Tokenizer(vocab_size=301)),
        dataclasses.replace(data, sources=(dataclasses.replace(source, max_documents=40),)),
        dataclasses.replace(data, sources=(source, source)),
        dataclasses.replace(data, sources=(source, dataclasses.replace(source, weight=2.0))),
        dataclasses.replace(data, validation_sources=(dataclasses.replace(source, max_documents=3),)),
        dataclasses.replace(data, tokenizer=word_tokenizer(tmp_path, 100)),
    ]
    digests = [digest_of(changed) for changed in changes]
    write_jsonl(Path(source.path or ""), [*TEXTS, "one more"])
    digests.append(digest_of(data))
    assert len({first, *digests}) == len(changes) + 2


def test_mixture_of_sources_has_their_shares(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{i}.jsonl", made_documents(150, seed=i, n_words=40 + 20 * i)) for i in range(2)]
    sources = tuple(Source(kind="jsonl", path=str(path), weight=weight) for path, weight in zip(paths, (3, 1), strict=True))
    corpus = prepare(dataclasses.replace(made_data(tmp_path, TEXTS), sources=sources))
    assert sum(corpus.source_tokens) == corpus.n_train_tokens + 1
    longest = max(map(len, stored_documents(corpus, "train.bin")))
    assert abs(corpus.source_tokens[0] - 0.75 * sum(corpus.source_tokens)) <= longest
    # at any point, not only at the end
    tokenizer, used = corpus.tokenizer(), [0, 0]
    for text in stored_documents(corpus, "train.bin"):
        used[int(text.split()[1])] += len(tokenizer.encode(text)) + 1
        assert abs(used[0] - 0.75 * sum(used)) <= longest
    assert tuple(used) == corpus.source_tokens
    assert json.loads((corpus.folder / "corpus.json").read_text())["corpus"]["source_tokens"] == used


def test_tokenizer_sees_the_first_bytes_of_every_source_by_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = build.train_tokenizer
    monkeypatch.setattr(build, "train_tokenizer", lambda texts, size: real((seen.append(text) or text for text in texts), size))  # type: ignore[func-returns-value]
    paths = [write_jsonl(tmp_path / f"{i}.jsonl", made_documents(100, seed=i)) for i in range(2)]
    sources = tuple(Source(kind="jsonl", path=str(path), weight=weight) for path, weight in zip(paths, (3, 1), strict=True))
    tokenizer = Tokenizer(vocab_size=300, train_bytes=8000)
    prepare(dataclasses.replace(made_data(tmp_path, TEXTS), sources=sources, tokenizer=tokenizer))
    n_bytes = [sum(len(text.encode()) for text in seen if text.startswith(f"document {i}")) for i in range(2)]
    assert 6000 <= n_bytes[0] < 6600
    assert 2000 <= n_bytes[1] < 2600
    assert all(HoldOut(0.2).side(text) is Side.TRAIN for text in seen)


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    data = made_data(tmp_path, TEXTS)
    prepare(data, lambda *call: calls.append(call))
    size = (tmp_path / "train.jsonl").stat().st_size
    assert list(dict.fromkeys(label for label, _, _ in calls)) == ["train the tokenizer", "tokenize"]
    assert calls[-1] == ("tokenize", size, size)
    assert all(total is None or done <= total for _, done, total in calls)


def test_progress_of_an_unknown_total_ends_full(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    data = made_data(tmp_path, TEXTS)
    limited = dataclasses.replace(data.sources[0], max_documents=40)
    prepare(dataclasses.replace(data, sources=(limited,)), lambda *call: calls.append(call))
    _, done, total = calls[-1]
    assert calls[-2][2] is None
    assert 0 < done == total


def test_failure_in_the_middle_leaves_no_half_corpus(tmp_path: Path) -> None:
    data = made_data(tmp_path, made_documents(3000))
    path = tmp_path / "train.jsonl"
    path.write_text(path.read_text() + '{"text": \n')
    assert f"{path} line 3001: not JSON" in message_of(
        lambda: prepare(dataclasses.replace(data, tokenizer=Tokenizer(vocab_size=300, train_bytes=9)))
    )
    assert list((tmp_path / "cache").iterdir()) == []


KILLED = """
import os, signal, sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from raystage.data import prepare
from tests.data.made_text import made_data, made_documents
def progress(label, done, total):
    if label == "tokenize" and done:
        os.kill(os.getpid(), signal.SIGKILL)
prepare.prepare(made_data(Path(sys.argv[1]), made_documents(60)), progress)
"""


def test_killed_one_leaves_no_corpus_and_the_next_cleans_up(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "cache").iterdir()
    assert left.name.startswith(".building")
    assert (left / "train.bin").exists()
    corpus = prepare(made_data(tmp_path, TEXTS))
    assert list((tmp_path / "cache").iterdir()) == [corpus.folder]


def prepare_and_tell(data: Data, answers: "multiprocessing.Queue[Corpus]") -> None:
    answers.put(prepare(data))


def test_two_at_once_get_the_same(tmp_path: Path) -> None:
    data = made_data(tmp_path, TEXTS)
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[Corpus] = context.Queue()
    workers = [context.Process(target=prepare_and_tell, args=(data, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = answers.get(timeout=60), answers.get(timeout=60)
    for worker in workers:
        worker.join(60)
    assert first == second
    assert list((tmp_path / "cache").iterdir()) == [first.folder]


@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "tokenizer"])
def test_damaged_corpus_is_made_again(tmp_path: Path, damage: str) -> None:
    data = made_data(tmp_path, TEXTS)
    corpus = prepare(data)
    path = corpus.folder / ("tokenizer.json" if damage == "tokenizer" else "train.bin")
    whole = path.read_bytes()
    path.unlink()
    if damage != "removed":
        path.write_bytes(whole[:-2] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    if damage in ("cut", "removed"):
        assert "train.bin is missing or damaged; run raystage prepare" in message_of(lambda: Corpus.load(corpus.folder))
    else:
        assert f"{path.name} is missing or damaged" in message_of(corpus.verify)
    assert prepare(data) == corpus
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path / "cache") == [corpus.folder.name]


def test_folder_without_corpus_or_of_another_format_is_one_line(tmp_path: Path) -> None:
    assert "no prepared corpus there" in message_of(lambda: Corpus.load(tmp_path))
    (tmp_path / "corpus.json").write_text('{"format": 99}')
    assert "format 99, this raystage reads 1" in message_of(lambda: Corpus.load(tmp_path))


def test_no_side_may_be_empty(tmp_path: Path) -> None:
    data = made_data(tmp_path, TEXTS[:2], validation_fraction=0.001)
    assert message_of(lambda: prepare(data)) == (
        "data.validation_fraction=0.001: holds out none of 2 documents; raise it or give data.validation_sources"
    )
    assert "holds out all 2 documents; lower it" in message_of(lambda: prepare(dataclasses.replace(data, validation_fraction=0.999)))
    both = dataclasses.replace(data, validation_sources=data.sources)
    assert "no training document is left" in message_of(lambda: prepare(both))


def test_too_little_text_for_one_row_is_one_line(tmp_path: Path) -> None:
    corpus = prepare(made_data(tmp_path, TEXTS))
    for rows, n_tokens in ((corpus.train_rows, corpus.n_train_tokens), (corpus.validation_rows, corpus.n_validation_tokens)):
        line = message_of(lambda rows=rows: rows(80_000))
        assert "model.context_length=80000" in line
        assert f"has {n_tokens};" in line


def test_empty_or_missing_source_leaves_nothing(tmp_path: Path) -> None:
    data = made_data(tmp_path, ["  "])
    assert "holds no text" in message_of(lambda: prepare(data))
    (tmp_path / "train.jsonl").unlink()
    assert "no file there" in message_of(lambda: prepare(data))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_run_keeps_the_corpus_that_it_was_trained_on(tmp_path: Path) -> None:
    data = made_data(tmp_path, TEXTS)
    trained_on = prepare(data)
    assert gives(data, trained_on.digest)
    write_jsonl(tmp_path / "train.jsonl", [*TEXTS, "more"])
    assert not gives(data, trained_on.digest)
    assert prepare(data, trained_on=trained_on.digest) == trained_on
    assert os.listdir(tmp_path / "cache") == [trained_on.folder.name]
    (tmp_path / "train.jsonl").unlink()
    assert prepare(data, trained_on=trained_on.digest) == trained_on
    shutil.rmtree(trained_on.folder)
    write_jsonl(tmp_path / "train.jsonl", [*TEXTS, "more"])
    line = message_of(lambda: prepare(data, trained_on=trained_on.digest))
    assert "the corpus that the run was trained on is gone, and its sources give another one" in line
    assert not os.listdir(tmp_path / "cache"), "nothing is tokenized for a run that cannot go on with it"
    write_jsonl(tmp_path / "train.jsonl", TEXTS)
    assert prepare(data, trained_on=trained_on.digest) == trained_on


def test_the_tokenizer_is_saved_as_transformers_saves_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    corpus = prepare(made_data(tmp_path, TEXTS))
    corpus.save_tokenizer(tmp_path / "ours")
    corpus.tokenizer().save_pretrained(tmp_path / "theirs")
    ours, theirs = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("ours", "theirs"))
    text = f"{TEXTS[0]} {corpus.eot_token} {TEXTS[1]} ,  ."
    assert ours(text).input_ids == theirs(text).input_ids
    assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids)
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token) == (corpus.eot_token,) * 2


def test_a_disk_that_is_full_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("raystage.data.cache.sync_to_disk", full)
    line = message_of(lambda: prepare(made_data(tmp_path, TEXTS)))
    assert line.startswith(f"{tmp_path}/cache: cannot be written (No space left on device); make room there, or name another folder")
    assert not os.listdir(tmp_path / "cache")


@pytest.mark.parametrize("largest_bytes", [10**9, 100])
def test_files_too_large_for_a_task_are_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest_bytes: int) -> None:
    monkeypatch.setattr("raystage.data.build.LARGEST_FILE_BYTES", largest_bytes)
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", TEXTS)
    data = dataclasses.replace(made_data(tmp_path, TEXTS), sources=(Source(kind="jsonl", path=f"{tmp_path}/[ab].jsonl"),))
    asked: list[list[Path]] = []

    def elsewhere(
        source: Source, files: list[Path], side_of: SideOf, tokenizer: TextTokenizer, on_bytes: OnBytes
    ) -> Iterator[EncodedDocument]:
        asked.append(files)
        return iter(encode_texts(TEXTS + TEXTS, side_of, tokenizer))

    corpus = prepare(data, encode_files=elsewhere)
    assert bool(asked) == (largest_bytes == 10**9)
    assert corpus.n_train_documents + corpus.n_validation_documents == 2 * len(TEXTS)
