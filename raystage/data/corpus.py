"""A prepared corpus on disk: two token streams, the tokenizer and the facts about them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raystage.config import ConfigError
from raystage.data.files import file_sha256
from raystage.data.rows import Rows
from raystage.data.stream_file import StreamFacts, token_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT_VERSION = 1
TRAIN, VALIDATION, TOKENIZER, FACTS = "train.bin", "validation.bin", "tokenizer.json", "corpus.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Corpus:
    """Documents as tokens, end-of-text between them,: flat `train.bin` and `validation.bin`.

    `digest`: of all that the corpus was made from. `n_*_tokens` count end-of-text, `n_*_bytes` the text in UTF-8.
    `n_dropped_documents`: training documents left out because validation_sources hold them, too. `source_tokens`: training
    tokens used of each source, an end-of-text for each document; not all that it has where another source ended the mixture.
    """

    folder: Path
    digest: str
    vocab_size: int
    eot_id: int
    eot_token: str
    n_train_tokens: int
    n_validation_tokens: int
    n_train_documents: int
    n_validation_documents: int
    n_dropped_documents: int
    n_train_bytes: int
    n_validation_bytes: int
    source_tokens: tuple[int, ...]

    @classmethod
    def load(cls, folder: str | Path) -> "Corpus":
        """The corpus in `folder`, its files' sizes checked. Raises ConfigError where there is none, or it is damaged."""
        folder = Path(folder)
        facts = _read_facts(folder)
        corpus = cls(folder=folder, **{**facts["corpus"], "source_tokens": tuple(facts["corpus"]["source_tokens"])})
        item_bytes = token_dtype(corpus.vocab_size).itemsize
        for name, n_tokens in ((TRAIN, corpus.n_train_tokens), (VALIDATION, corpus.n_validation_tokens)):
            if not (folder / name).is_file() or (folder / name).stat().st_size != n_tokens * item_bytes:
                raise _damaged(folder, name)
        return corpus

    def verify(self) -> None:
        """Reads every file. Raises ConfigError for the first whose checksum is another than when it was written."""
        for name, checksum in _read_facts(self.folder)["sha256"].items():
            if file_sha256(self.folder / name) != checksum:
                raise _damaged(self.folder, name)

    def train_rows(self, context_length: int) -> Rows:
        """Raises ConfigError where the text does not fill one row."""
        return Rows(self._stream(TRAIN), context_length)

    def validation_rows(self, context_length: int) -> Rows:
        """Raises ConfigError where the held-out text does not fill one row."""
        return Rows(self._stream(VALIDATION), context_length)

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The tokenizer as transformers has it, with end-of-text as its bos and eos."""
        # seconds to load, and rows do not need it
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_file=str(self.folder / TOKENIZER),
            bos_token=self.eot_token,
            eos_token=self.eot_token,
            clean_up_tokenization_spaces=False,
        )

    def save_tokenizer(self, folder: Path) -> None:
        """Writes the same as AutoTokenizer reads it, without the seconds that transformers takes to load."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / TOKENIZER, folder / TOKENIZER)
        marks = {"bos_token": self.eot_token, "eos_token": self.eot_token}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **marks}
        (folder / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _stream(self, name: str) -> np.ndarray:
        return np.memmap(self.folder / name, dtype=token_dtype(self.vocab_size), mode="r")


def write_facts(folder: Path, facts: dict[str, Any], train: StreamFacts, validation: StreamFacts) -> None:
    """Writes corpus.json, last of all files. `facts`: the fields of Corpus that the streams do not know."""
    streams = {
        "n_train_tokens": train.n_tokens,
        "n_validation_tokens": validation.n_tokens,
        "n_train_documents": train.n_documents,
        "n_validation_documents": validation.n_documents,
        "n_train_bytes": train.n_bytes,
        "n_validation_bytes": validation.n_bytes,
    }
    checksums = {TRAIN: train.sha256, VALIDATION: validation.sha256, TOKENIZER: file_sha256(folder / TOKENIZER)}
    content = {"format": FORMAT_VERSION, "corpus": facts | streams, "sha256": checksums}
    (folder / FACTS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{folder}: no prepared corpus there (corpus.json cannot be read); run raystage prepare") from None
    if facts.get("format") != FORMAT_VERSION:
        raise ConfigError(f"{folder}: corpus of format {facts.get('format')}, this raystage reads {FORMAT_VERSION}; run raystage prepare")
    return facts


def _damaged(folder: Path, name: str) -> ConfigError:
    return ConfigError(f"{folder}: {name} is missing or damaged; run raystage prepare to make it again")
