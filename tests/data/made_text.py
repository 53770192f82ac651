"""Made documents and files of them."""

import gzip
import json
import lzma
import random
from collections.abc import Iterable
from pathlib import Path

import pyarrow

from raystage.config.schema import Data, Source, Tokenizer

WORDS = ["the", "of", "a", "river", "stone", "train", "loop", "tensor", "garden", "light", "under", "return", "def", "import", "self"]
SUFFIXES = ("", ".gz", ".xz", ".zst")


def made_documents(n: int, seed: int = 0, n_words: int = 60) -> list[str]:
    """`n` different documents of about `n_words` words in several lines."""
    rng = random.Random(seed)
    return [f"document {seed} {i}\n" + _lines(rng, rng.randint(n_words // 2, n_words * 3 // 2)) for i in range(n)]


def _lines(rng: random.Random, n_words: int) -> str:
    return "".join(rng.choice(WORDS) + ("\n" if rng.random() < 0.1 else " ") for _ in range(n_words))


def packed(content: bytes, suffix: str) -> bytes:
    """`content` in the format that the suffix names."""
    if suffix == ".gz":
        return gzip.compress(content)
    if suffix == ".xz":
        return lzma.compress(content)
    if suffix == ".zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return bytes(sink.getvalue())
    return content


def write_jsonl(path: Path, texts: Iterable[str], key: str = "text") -> Path:
    """One object a line, packed as the path's suffix says."""
    lines = "".join(json.dumps({"id": i, key: text}) + "\n" for i, text in enumerate(texts))
    path.write_bytes(packed(lines.encode(), path.suffix))
    return path


def made_data(folder: Path, texts: Iterable[str], vocab_size: int = 300, **changes: object) -> Data:
    """A configuration of one JSONL file of `texts` in `folder`, cached in `folder`/cache."""
    path = write_jsonl(folder / "train.jsonl", texts)
    tokenizer = Tokenizer(vocab_size=vocab_size)
    settings = {"sources": (Source(kind="jsonl", path=str(path)),), "tokenizer": tokenizer, "validation_fraction": 0.2} | changes
    return Data(cache_dir=str(folder / "cache"), **settings)  # type: ignore[arg-type]
