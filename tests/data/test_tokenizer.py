import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from raystage.config.schema import Tokenizer
from raystage.data.tokenizer import END_OF_TEXT, TextTokenizer, load_tokenizer, train_tokenizer
from tests.config.refusal import message_of
from tests.data.made_text import made_documents

ODD = [
    "plain words",
    "\tdef f(x):\n\t\treturn x  # two  spaces\n\n\n",
    "line\r\nends\rof all\x0bkinds\x00\x1f",
    "naïve Ωmega 漢字 🚂👩‍👩‍👧‍👦 é\u200b\u2028",
    " leading and trailing ",
    "said <|endoftext|> and went on <|endoftext|>",
]


@pytest.fixture(scope="module")
def trained() -> TextTokenizer:
    return train_tokenizer(made_documents(200), 320)


def test_trained_vocabulary_has_the_size_asked_for_end_of_text_included(trained: TextTokenizer) -> None:
    assert trained.vocab_size == 320
    assert trained.backend.id_to_token(trained.eot_id) == END_OF_TEXT
    assert train_tokenizer(["ab"], 1000).vocab_size == 258  # bytes, end-of-text and one merge


@pytest.mark.parametrize("text", ODD)
def test_odd_text_comes_back(trained: TextTokenizer, text: str) -> None:
    (tokens,) = trained.encode([text])
    assert trained.backend.decode(tokens.tolist()) == text
    assert trained.eot_id not in tokens
    assert tokens.max() < trained.vocab_size


def test_merges_shorten_text(trained: TextTokenizer) -> None:
    text = "the river under the garden"
    assert len(trained.encode([text])[0]) < len(text) * 0.6


TRAIN = """
import hashlib
from raystage.data.tokenizer import train_tokenizer
from tests.data.made_text import made_documents
print(hashlib.sha256(train_tokenizer(made_documents(200), 320).backend.to_str().encode()).hexdigest())
"""


def test_training_is_the_same_in_another_process(trained: TextTokenizer) -> None:
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", TRAIN], cwd=root, check=True, capture_output=True, text=True, timeout=60)
    assert other.stdout.strip() == hashlib.sha256(trained.backend.to_str().encode()).hexdigest()


def word_level(folder: Path, words: list[str]) -> Path:
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def from_file(path: Path) -> TextTokenizer:
    return load_tokenizer(Tokenizer(kind="file", path=str(path)))


def test_file_or_its_folder_gives_the_same_tokens(tmp_path: Path, trained: TextTokenizer) -> None:
    trained.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = from_file(path)
        assert [tokens.tolist() for tokens in loaded.encode(ODD)] == [tokens.tolist() for tokens in trained.encode(ODD)]
        assert (loaded.vocab_size, loaded.eot_id) == (trained.vocab_size, trained.eot_id)


def test_truncation_and_padding_of_the_file_are_left_out(tmp_path: Path, trained: TextTokenizer) -> None:
    backend = Backend.from_str(trained.backend.to_str())
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert from_file(tmp_path).encode(ODD)[1].tolist() == trained.encode(ODD)[1].tolist()


def test_ordinary_entry_becomes_the_special_one(tmp_path: Path) -> None:
    tokenizer = from_file(word_level(tmp_path, ["?", "a", END_OF_TEXT]))
    assert tokenizer.eot_id == 2
    assert tokenizer.vocab_size == 3


def test_eos_token_of_the_folder_serves_where_the_usual_one_is_missing(tmp_path: Path) -> None:
    path = word_level(tmp_path, ["?", "a", "</s>"])
    assert f"has no entry {END_OF_TEXT}" in message_of(lambda: from_file(path))
    for eos in ("</s>", {"content": "</s>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        assert from_file(path).eot_token == "</s>"


def test_gaps_in_the_numbers_count(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"?": 0, "a": 70000, END_OF_TEXT: 5}, unk_token="?"))
    assert TextTokenizer(backend, END_OF_TEXT).vocab_size == 70001


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    assert "no tokenizer.json of the tokenizers library" in message_of(lambda: from_file(tmp_path))
    assert "cannot be read" in message_of(lambda: from_file(tmp_path / "none.json"))
    (tmp_path / "latin.json").write_bytes(b"\xe9")
    assert "not UTF-8" in message_of(lambda: from_file(tmp_path / "latin.json"))


def test_hub_name(tmp_path: Path, trained: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    # a folder stands in for the hub: from_pretrained takes either
    import transformers

    hub_folder = tmp_path / "model"
    saved: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=trained.backend, eos_token=END_OF_TEXT)
    saved.save_pretrained(hub_folder)
    loaded = load_tokenizer(Tokenizer(kind="hub", name=str(hub_folder)))
    assert [tokens.tolist() for tokens in loaded.encode(ODD)] == [tokens.tolist() for tokens in trained.encode(ODD)]
    assert loaded.eot_id == trained.eot_id
    line = message_of(lambda: load_tokenizer(Tokenizer(kind="hub", name=str(tmp_path / "none"))))
    assert line.startswith("data.tokenizer.name=")
    assert "cannot be loaded" in line
