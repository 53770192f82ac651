"""Files to tokens on the nodes of a Ray cluster, in the order and with the numbers that one process gives.

A task reads one file, or some small ones, and hands back its tokens; Ray runs it again elsewhere when its worker or node dies. The
driver writes the corpus: it takes the tasks' results in order, with a bounded number under way.
"""

import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from tokenizers import Tokenizer

from raystage.config import Config, ConfigError
from raystage.config.schema import Source
from raystage.data.documents import file_documents
from raystage.data.encoding import EncodedDocument, batches, encode_texts
from raystage.data.files import OnBytes
from raystage.data.split import Side, SideOf
from raystage.data.stream_file import token_dtype
from raystage.data.tokenizer import TextTokenizer
from raystage.runtime.engine import EngineError
from raystage.runtime.job_package import check_places_of_nodes
from raystage.runtime.ray_cluster import connect
from raystage.runtime.ray_nodes import host_names

_TASK_BYTES = 4_000_000  # of files as they lie: some seconds of work, so that tasks cost little and a death repeats little
_MAX_RETRIES = 10
_SIDES = list(Side)

Part = list[tuple[Path, int]]  # files of one task, with their sizes [bytes]


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
    """An EncodeFiles; joins the cluster of `config` when there is something to do."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(
        self, source: Source, files: list[Path], side_of: SideOf, tokenizer: TextTokenizer, on_bytes: OnBytes
    ) -> Iterator[EncodedDocument]:
        connect(self._config)
        check_places_of_nodes(self._config, host_names())
        shared = ray.put(side_of), ray.put(tokenizer.backend.to_str()), tokenizer.eot_token
        left, under_way = deque(_parts(files)), deque[tuple[Part, Any]]()
        try:
            while left or under_way:
                while left and len(under_way) < _limit():
                    part = left.popleft()
                    under_way.append((part, _encode.remote(source, part, *shared)))
                part, reference = under_way.popleft()
                yield from _result(reference).documents()
                on_bytes(sum(n_bytes for _, n_bytes in part))
        finally:
            for _, reference in under_way:
                ray.cancel(reference)


def _parts(files: list[Path]) -> Iterator[Part]:
    """A file that is large makes a part of its own with the small ones before it."""
    part: Part = []
    for path in files:
        part.append((path.expanduser().absolute(), path.stat().st_size))
        if sum(n_bytes for _, n_bytes in part) >= _TASK_BYTES:
            yield part
            part = []
    if part:
        yield part


def _limit() -> int:
    """Two tasks a core, as the cluster is now: the next begins at once, and results do not pile up."""
    return max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))


def _result(reference: Any) -> _Encoded:
    try:
        found: _Encoded | str = ray.get(reference)
    except RayError as error:
        raise EngineError(f"tokenizing on the cluster failed {_MAX_RETRIES + 1} times ({str(error).splitlines()[0]})") from error
    if isinstance(found, str):
        raise ConfigError(found)
    return found


@ray.remote(num_cpus=1, max_retries=_MAX_RETRIES, scheduling_strategy="SPREAD")
def _encode(source: Source, part: Part, side_of: SideOf, tokenizer_json: str, eot_token: str) -> _Encoded | str:
    """A mistake of the user is a result: as an exception it would come back inside a traceback."""
    tokenizer = _tokenizer(tokenizer_json, eot_token)
    documents: list[EncodedDocument] = []
    try:
        for path, n_bytes in part:
            _check_same(path, n_bytes)
            for texts in batches(file_documents(source, path, is_alone=False)):
                documents += encode_texts(texts, side_of, tokenizer)
    except ConfigError as error:
        return str(error)
    dtype = token_dtype(tokenizer.vocab_size)
    return _Encoded(
        tokens=np.concatenate([np.empty(0, dtype), *(document.tokens.astype(dtype) for document in documents)]),
        n_tokens=np.array([len(document.tokens) for document in documents], dtype=np.int64),
        n_bytes=np.array([document.n_bytes for document in documents], dtype=np.int64),
        sides=np.array([_SIDES.index(document.side) for document in documents], dtype=np.int8),
    )


def _check_same(path: Path, n_bytes: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != n_bytes:
        seen = "is not there" if found is None else f"has {found:,} bytes, not {n_bytes:,},"
        raise ConfigError(f"{path}: {seen} on node {socket.gethostname()}; share the files of the sources between all nodes")


@lru_cache(maxsize=1)
def _tokenizer(tokenizer_json: str, eot_token: str) -> TextTokenizer:
    return TextTokenizer(Tokenizer.from_str(tokenizer_json), eot_token)
