"""A source of the configuration as a stream of documents."""

from collections.abc import Iterator
from itertools import islice

from raystage.config import ConfigError
from raystage.config.schema import Source
from raystage.data.files import OnBytes, ignore_bytes, matching_files
from raystage.data.hf_dataset import dataset_documents
from raystage.data.jsonl_files import jsonl_documents
from raystage.data.stdlib_files import stdlib_documents
from raystage.data.text_files import text_documents


def documents(source: Source, on_bytes: OnBytes = ignore_bytes) -> Iterator[str]:
    """The documents in the source's own order, up to `max_documents`; those of white space alone are passed over.

    `on_bytes` hears of every piece read: packed bytes of files, text bytes of datasets. Raises ConfigError, one line, for a
    source that cannot be read or has no document.
    """
    texts = (text for text in _all(source, on_bytes) if text and not text.isspace())
    n_documents = 0
    for text in islice(texts, source.max_documents):
        n_documents += 1
        yield text
    if not n_documents:
        raise ConfigError(f"{source.path or source.name or 'stdlib'}: holds no text; give the source other files")


def _all(source: Source, on_bytes: OnBytes) -> Iterator[str]:
    if source.kind == "stdlib":
        return stdlib_documents(on_bytes)
    if source.kind == "dataset":
        return dataset_documents(source, on_bytes)
    files = matching_files(source.path or "")
    if source.kind == "jsonl":
        return jsonl_documents(files, source.text_key, on_bytes)
    return text_documents(files, on_bytes)
