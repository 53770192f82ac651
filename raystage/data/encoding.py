"""Documents to tokens, several at a time, in order, with a bounded number under way."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from raystage.config.schema import Source
from raystage.data.files import OnBytes
from raystage.data.split import Side, SideOf
from raystage.data.tokenizer import TextTokenizer

BATCH_CHARACTERS = 1 << 18


@dataclass(frozen=True, eq=False)
class EncodedDocument:
    """`tokens`: uint32 (n,), without end-of-text, none where the document is dropped; `n_bytes`: of the text in UTF-8."""

    tokens: np.ndarray
    n_bytes: int
    side: Side


class EncodeFiles(Protocol):
    """Makes tokens of many files at a time, on other machines."""

    def __call__(
        self, source: Source, files: list[Path], side_of: SideOf, tokenizer: TextTokenizer, on_bytes: OnBytes
    ) -> Iterator[EncodedDocument]:
        """The documents of all files of a source, in order. Raises ConfigError for a file that cannot be read."""
        ...


def encode_documents(
    texts: Iterable[str], side_of: SideOf, tokenizer: TextTokenizer, threads: Executor, n_ahead: int
) -> Iterator[EncodedDocument]:
    """The documents in their order; `n_ahead` batches of some 256 thousand characters are read ahead of the one in use.

    Threads, not processes: the tokenizer's work is outside of Python's lock, and threads need no importable main module.
    """
    under_way: deque[Future[list[EncodedDocument]]] = deque()
    for batch in batches(texts):
        under_way.append(threads.submit(encode_texts, batch, side_of, tokenizer))
        if len(under_way) > n_ahead:
            yield from under_way.popleft().result()
    while under_way:
        yield from under_way.popleft().result()


def encode_texts(texts: list[str], side_of: SideOf, tokenizer: TextTokenizer) -> list[EncodedDocument]:
    """One for each text; on the calling thread."""
    sides = [side_of(text) for text in texts]
    tokens = tokenizer.encode(["" if side is Side.DROPPED else text for text, side in zip(texts, sides, strict=True)])
    return [EncodedDocument(ids, len(text.encode()), side) for ids, text, side in zip(tokens, texts, sides, strict=True)]


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Of some 256 thousand characters, the last document whole."""
    batch: list[str] = []
    n_characters = 0
    for text in texts:
        batch.append(text)
        n_characters += len(text)
        if n_characters >= BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch
