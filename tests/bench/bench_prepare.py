"""Seconds of `prepare`, from text on disk to a corpus on disk, against the tokenizers library's batch call on the same text in memory."""

import itertools
import json
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer

from raystage.config.schema import Data, Source
from raystage.config.schema import Tokenizer as TokenizerSettings
from raystage.data.prepare import prepare
from raystage.data.tokenizer import train_tokenizer
from tests.bench.result import Result, paired_figures

_TEXT_BYTES = 12_000_000
_PAIRS = 3


def run() -> Result:
    """Python's own library as text, 4,096 entries, as many threads as there are cores on both sides."""
    texts = _texts()
    n_bytes = sum(len(text.encode()) for text in texts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_tokenizer(texts[:200], 4096).save(folder / "tokenizer.json")
        (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        tokenizer, number = Tokenizer.from_file(str(folder / "tokenizer.json")), itertools.count()
        n_tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))

        def ours() -> float:
            data = Data(
                sources=(Source(kind="jsonl", path=str(folder / "text.jsonl")),),
                tokenizer=TokenizerSettings(kind="file", path=str(folder / "tokenizer.json")),
                cache_dir=str(folder / f"corpus-{next(number)}"),
            )
            begin_s = time.perf_counter()
            prepare(data)
            return n_tokens / (time.perf_counter() - begin_s)

        def library() -> float:
            begin_s = time.perf_counter()
            for encoding in tokenizer.encode_batch(texts):
                assert encoding.ids
            return n_tokens / (time.perf_counter() - begin_s)

        rates = paired_figures(ours, library, _PAIRS)
        said = f"{statistics.median(mine for mine, _ in rates):,.0f} tokens/s; {n_bytes / 1e6:.0f} MB of text, {n_tokens:,} tokens"
    return Result("prepare, tokens/s", "tokenizers' encode_batch", "x", tuple(mine / theirs for mine, theirs in rates), ">= 0.90", said)


def _texts() -> list[str]:
    texts, n_bytes = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*/*.py")):
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        texts += [text] if text else []
        n_bytes += len(text.encode())
        if n_bytes > _TEXT_BYTES:
            break
    return texts


if __name__ == "__main__":
    print(run().line())
