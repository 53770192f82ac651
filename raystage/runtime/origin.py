"""What a run is trained on, as its provenance has it."""

import dataclasses
from typing import Any

from raystage.config import Config
from raystage.data.corpus import TOKENIZER, Corpus
from raystage.data.files import file_sha256

_COUNTS = ("n_train_tokens", "n_validation_tokens", "n_train_documents", "n_validation_documents", "n_train_bytes", "n_validation_bytes")


def origin_of(config: Config, corpus: Corpus) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts about the corpus and about its tokenizer, with digests and where they were asked to come from."""
    data = dataclasses.asdict(config.data)
    text = {
        "digest": corpus.digest,
        "sources": data["sources"],
        "validation_sources": data["validation_sources"],
        **{name: getattr(corpus, name) for name in _COUNTS},
    }
    tokenizer = {
        "sha256": file_sha256(corpus.folder / TOKENIZER),
        "source": data["tokenizer"],
        "vocab_size": corpus.vocab_size,
        "end_of_text": corpus.eot_token,
    }
    return text, tokenizer
