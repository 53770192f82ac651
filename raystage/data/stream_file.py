"""One side of the corpus on disk: a flat little-endian stream of token numbers."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from raystage.data.encoding import EncodedDocument


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every token number fits, else uint32; little-endian."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


@dataclass(frozen=True)
class StreamFacts:
    """`n_tokens` counts end-of-text; `n_bytes`: of the text in UTF-8; `sha256`: of the file."""

    n_tokens: int
    n_documents: int
    n_bytes: int
    sha256: str


class StreamWriter:
    """Appends documents to a file, end-of-text between them. A context manager: leaving it makes the file durable."""

    def __init__(self, path: Path, vocab_size: int, eot_id: int) -> None:
        self._file = path.open("wb")
        self._dtype = token_dtype(vocab_size)
        self._eot = np.array([eot_id], dtype=self._dtype)
        self._hash = sha256()
        self._n_tokens = self._n_documents = self._n_bytes = 0

    def append(self, document: EncodedDocument) -> None:
        if self._n_documents:
            self._write(self._eot)
        self._write(document.tokens.astype(self._dtype))
        self._n_documents += 1
        self._n_bytes += document.n_bytes

    def facts(self) -> StreamFacts:
        return StreamFacts(self._n_tokens, self._n_documents, self._n_bytes, self._hash.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    def _write(self, tokens: np.ndarray) -> None:
        content = tokens.tobytes()
        self._file.write(content)
        self._hash.update(content)
        self._n_tokens += len(tokens)
