"""The memory of `prepare` does not grow with the text."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from raystage.data.tokenizer import train_tokenizer

_PEAK = """
import re, sys
from pathlib import Path
from raystage.config.schema import Data, Source, Tokenizer
from raystage.data.prepare import prepare

def peak_kb():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

text, tokenizer, folder = sys.argv[1:]
before_kb = peak_kb()
prepare(Data(sources=(Source(kind="jsonl", path=text),), tokenizer=Tokenizer(kind="file", path=tokenizer), cache_dir=folder))
print(peak_kb() - before_kb)
"""


def _write(path: Path, n_bytes: int) -> None:
    chances, n_written = random.Random(1), 0
    words = ["".join(chances.choices("etaoinshrdlu", k=chances.randint(2, 9))) for _ in range(3000)]
    with path.open("w") as file:
        while n_written < n_bytes:
            n_written += file.write(json.dumps({"text": " ".join(chances.choices(words, k=400))}) + "\n")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["a few words of nothing"] * 10, 300).save(path)
    return path


def test_four_times_the_text_takes_no_more_memory(tokenizer: Path, tmp_path: Path) -> None:
    """4.5 MB more, which take 1 MB; with all of it under way at once it would be 5."""
    peaks_kb = []
    for n_bytes in (1_500_000, 6_000_000):
        text = tmp_path / f"{n_bytes}.jsonl"
        _write(text, n_bytes)
        command = [sys.executable, "-c", _PEAK, str(text), str(tokenizer), str(tmp_path / f"corpus-{n_bytes}")]
        peaks_kb.append(int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]))
    assert peaks_kb[1] < peaks_kb[0] + 3_000
