"""A source of the configuration as a stream of documents."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from raystage.config import ConfigError
from raystage.config.schema import Source
from raystage.data.files import OnBytes, ignore_bytes, matching_files
from raystage.data.hf_dataset import dataset_documents
from raystage.data.jsonl_files import jsonl_documents
from raystage.data.stdlib_files import stdlib_documents
from raystage.data.text_files import text_documents

T = TypeVar("T")


def documents(source: Source, on_bytes: OnBytes = ignore_bytes) -> Iterator[str]:
    """The documents in the source's own order, up to `max_documents`; those of white space alone are passed over.

    `on_bytes` hears of every piece read: packed bytes of files, text bytes of datasets. Raises ConfigError, one line, for a
    source that cannot be read or has no document.
    """
    return limited(_not_blank(_all(source, on_bytes)), source)


def files_of(source: Source) -> list[Path]:
    """The files of a `text` or `jsonl` source, in order; none of another kind. Raises ConfigError where none is there."""
    return matching_files(source.path or "") if source.kind in ("text", "jsonl") else []


def file_documents(source: Source, path: Path, is_alone: bool, on_bytes: OnBytes = ignore_bytes) -> Iterator[str]:
    """The part of `documents` that one of its files holds, without the limit; `is_alone`: the source has no other file."""
    return _not_blank(_of_file(source, path, is_alone, on_bytes))


def limited(items: Iterable[T], source: Source) -> Iterator[T]:
    """The first `max_documents` of what was made of a source's documents. Raises ConfigError where there is none."""
    n_documents = 0
    for item in islice(items, source.max_documents):
        n_documents += 1
        yield item
    if not n_documents:
        raise ConfigError(f"{source.path or source.name or 'stdlib'}: holds no text; give the source other files")


def _not_blank(texts: Iterator[str]) -> Iterator[str]:
    return (text for text in texts if text and not text.isspace())


def _all(source: Source, on_bytes: OnBytes) -> Iterator[str]:
    if source.kind == "stdlib":
        yield from stdlib_documents(on_bytes)
    elif source.kind == "dataset":
        yield from dataset_documents(source, on_bytes)
    files = files_of(source)
    for path in files:
        yield from _of_file(source, path, len(files) == 1, on_bytes)


def _of_file(source: Source, path: Path, is_alone: bool, on_bytes: OnBytes) -> Iterator[str]:
    if source.kind == "jsonl":
        return jsonl_documents(path, source.text_key, on_bytes)
    return text_documents(path, is_alone, on_bytes)
