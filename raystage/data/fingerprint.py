"""The name of a corpus: a digest of all that decides its content, and of nothing else."""

import dataclasses
import hashlib
import json
from typing import Any

from raystage.config.schema import Data, Source
from raystage.data.files import matching_files, source_sha256
from raystage.data.hf_dataset import dataset_fingerprint
from raystage.data.stdlib_files import stdlib_files, stdlib_folder
from raystage.data.tokenizer import TextTokenizer


def corpus_digest(data: Data, tokenizer: TextTokenizer | None, format_version: int) -> str:
    """Hex digest of the sources' content and settings, the tokenizer (None: one that is trained) and the hold-out.

    Neither the place of files nor processes nor cache_dir matter. Raises ConfigError for a source that cannot be read.
    """
    parts = {
        "format": format_version,
        "sources": _source_keys(data.sources),
        "validation": _source_keys(data.validation_sources) or data.validation_fraction,
        "tokenizer": _trained_key(data) if tokenizer is None else _loaded_key(tokenizer),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _source_keys(sources: tuple[Source, ...]) -> list[dict[str, Any]]:
    total = sum(source.weight for source in sources)
    return [_source_key(source, source.weight / total) for source in sources]


def _source_key(source: Source, share: float) -> dict[str, Any]:
    key: dict[str, Any] = {"kind": source.kind, "max_documents": source.max_documents, "share": share}
    if source.kind in ("jsonl", "dataset"):
        key["text_key"] = source.text_key
    if source.kind == "dataset":
        return key | {"fingerprint": dataset_fingerprint(source)}
    if source.kind == "stdlib":
        folder = stdlib_folder()
        return key | {"files": [(path.relative_to(folder).as_posix(), source_sha256(path)) for path in stdlib_files()]}
    return key | {"files": [(path.name, source_sha256(path)) for path in matching_files(source.path or "")]}


def _trained_key(data: Data) -> dict[str, Any]:
    settings = dataclasses.asdict(data.tokenizer)
    return {name: settings[name] for name in ("kind", "vocab_size", "train_bytes")}


def _loaded_key(tokenizer: TextTokenizer) -> dict[str, Any]:
    return {"content": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest(), "end_of_text": tokenizer.eot_token}
