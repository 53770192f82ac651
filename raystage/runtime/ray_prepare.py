"""Files to tokens on the nodes of a Ray cluster, in the order and with the numbers that one process gives.

A task reads one file, or some small ones, and hands back its tokens; Ray runs it again elsewhere when its worker or node dies. The
driver writes the corpus: it takes the tasks' results in order, with a bounded number under way.
"""

import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from tokenizers import Tokenizer

from raystage.config import ConfigError
from raystage.config.schema import Source
from raystage.data.documents import file_documents
from raystage.data.encoding import EncodedDocument, batches, encode_texts
from raystage.data.files import OnBytes, file_sha256, source_sha256
from raystage.data.split import Side, SideOf
from raystage.data.stream_file import token_dtype
from raystage.data.tokenizer import TextTokenizer
from raystage.runtime.engine import EngineError
from raystage.runtime.ray_failure import last_line

_TASK_BYTES = 4_000_000  # of files as they lie: some seconds of work, so that tasks cost little and a death repeats little
_MOST_BYTES = 8_000_000_000  # of files whose tokens wait for their turn, in Ray's object store
_MAX_RETRIES = 10
_SAY_EVERY_S = 60.0
_SIDES = list(Side)


@dataclass(frozen=True)
class _File:
    """As the driver found it."""

    path: Path
    n_bytes: int
    sha256: str


Part = list[_File]  # of one task


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Documents end to end: `tokens` of all; how many tokens and bytes each has, and its place in _SIDES."""

    tokens: np.ndarray
    n_tokens: np.ndarray
    n_bytes: np.ndarray
    sides: np.ndarray

    def documents(self) -> Iterator[EncodedDocument]:
        ends = np.cumsum(self.n_tokens)
        for start, end, n_bytes, side in zip(ends - self.n_tokens, ends, self.n_bytes.tolist(), self.sides.tolist(), strict=True):
            yield EncodedDocument(self.tokens[start:end], n_bytes, _SIDES[side])


class ClusterTasks:
    """An EncodeFiles, on the cluster that this process has joined."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __call__(
        self, source: Source, files: list[Path], side_of: SideOf, tokenizer: TextTokenizer, on_bytes: OnBytes
    ) -> Iterator[EncodedDocument]:
        shared = ray.put(side_of), ray.put(tokenizer.backend.to_str()), tokenizer.eot_token
        left, under_way = deque(_parts(files)), deque[tuple[Part, Any]]()
        try:
            while left or under_way:
                while left and _has_room(under_way):
                    part = left.popleft()
                    under_way.append((part, _encode.remote(source, part, *shared)))
                part, reference = under_way.popleft()
                encoded, trouble = self._result(reference)
                yield from encoded.documents()
                if trouble is not None:  # after what comes before it: the consumer may have enough by then
                    raise ConfigError(trouble)
                on_bytes(sum(file.n_bytes for file in part))
        finally:
            for _, reference in under_way:
                ray.cancel(reference)

    def _result(self, reference: Any) -> "tuple[_Encoded, str | None]":
        while not ray.wait([reference], timeout=_SAY_EVERY_S)[0]:
            if not ray.available_resources().get("CPU"):
                self._say("tokenizing: no CPU of the cluster is free (runtime.engine=local tokenizes here)")
        try:
            found: tuple[_Encoded, str | None] = ray.get(reference)
        except RayError as error:
            raise EngineError(f"tokenizing on the cluster failed ({last_line(error)})") from error
        return found


def _parts(files: list[Path]) -> Iterator[Part]:
    """A file that is large makes a part of its own with the small ones before it."""
    part: Part = []
    for path in files:
        part.append(_File(path.absolute(), path.stat().st_size, source_sha256(path)))
        if sum(file.n_bytes for file in part) >= _TASK_BYTES:
            yield part
            part = []
    if part:
        yield part


def _has_room(under_way: Sequence[tuple[Part, Any]]) -> bool:
    """For a task more: two for each CPU of the cluster as it is now, so that the next begins at once; fewer of large files."""
    n_bytes = sum(file.n_bytes for part, _ in under_way for file in part)
    return len(under_way) < max(2, 2 * int(ray.cluster_resources().get("CPU", 0))) and n_bytes < _MOST_BYTES


@ray.remote(num_cpus=1, max_retries=_MAX_RETRIES, scheduling_strategy="SPREAD")
def _encode(source: Source, part: Part, side_of: SideOf, tokenizer_json: str, eot_token: str) -> tuple[_Encoded, str | None]:
    """The documents, and what is wrong with the next one: as an exception a mistake of the user would come back inside a traceback."""
    tokenizer, trouble = _tokenizer(tokenizer_json, eot_token), _Trouble()
    tokens, dtype = bytearray(), token_dtype(tokenizer.vocab_size)
    facts: list[tuple[int, int, int]] = []
    for texts in batches(islice(_documents(source, part, trouble), source.max_documents)):
        for document in encode_texts(texts, side_of, tokenizer):
            tokens += document.tokens.astype(dtype).tobytes()
            facts.append((len(document.tokens), document.n_bytes, _SIDES.index(document.side)))
    n_tokens, n_bytes, sides = np.array(facts, dtype=np.int64).reshape(-1, 3).T
    return _Encoded(np.frombuffer(tokens, dtype), n_tokens, n_bytes, sides), trouble.message


@dataclass
class _Trouble:
    message: str | None = None


def _documents(source: Source, part: Part, trouble: _Trouble) -> Iterator[str]:
    """Until one cannot be read; `trouble` says why then."""
    try:
        for file in part:
            _check_same(file)
            yield from file_documents(source, file.path, is_alone=False)
    except ConfigError as error:
        trouble.message = str(error)


def _check_same(file: _File) -> None:
    """Raises ConfigError where this node has another file than the driver under the same name: the corpus is named by the driver's."""
    if not file.path.is_file() or file_sha256(file.path) != file.sha256:
        seen = "has other content" if file.path.is_file() else "is not there"
        raise ConfigError(f"{file.path}: {seen} on node {socket.gethostname()}; share the files of the sources between all nodes")


@lru_cache(maxsize=1)
def _tokenizer(tokenizer_json: str, eot_token: str) -> TextTokenizer:
    return TextTokenizer(Tokenizer.from_str(tokenizer_json), eot_token)
