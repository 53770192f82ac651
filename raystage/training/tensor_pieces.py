"""Tensors in safetensors files, each whole or cut along its first dimension into pieces in several files. No pickle is ever read.

Pieces are as torch.distributed.checkpoint's HuggingFaceStorageWriter leaves them: each file says where in the tensor its piece begins.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from raystage.training.errors import CheckpointError

_OFFSETS = "DCP_SHARDING_INFO"  # in a file's metadata: {"name": {"saved_offsets": [...]}}


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows `first` to `first + n_rows` of a tensor lie in `file`; a tensor without dimensions counts as one row."""

    file: Path
    first: int
    n_rows: int


@dataclasses.dataclass(frozen=True)
class Header:
    """What safetensors files say of a tensor before its values: `dtype` in their own words, like BF16."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says beside its tensors. Raises CheckpointError."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_file_headers(paths: Iterable[Path]) -> dict[str, Header]:
    """The header of every tensor in these files, by name. Raises CheckpointError for a file or a piece that is missing, damaged or
    there twice."""
    found: dict[str, list[Header]] = {}
    for path in paths:
        for name, header in _headers_of(path).items():
            found.setdefault(name, []).append(header)
    return {name: _joined(name, headers) for name, headers in found.items()}


def read_tensors(headers: dict[str, Header], names: Iterable[str]) -> dict[str, Tensor]:
    """These tensors, each file opened once. Raises CheckpointError."""
    parts: dict[str, dict[int, Tensor]] = {name: {} for name in names}

    def take(name: str, piece: Piece, file: Any) -> None:
        parts[name][piece.first] = file.get_tensor(name)

    _for_each_piece({name: headers[name] for name in parts}, take)
    whole = {}
    for name in list(parts):
        rows = [part for _, part in sorted(parts.pop(name).items())]
        whole[name] = rows[0] if len(rows) == 1 else torch.cat(rows)
    return whole


def fill_rows(headers: dict[str, Header], targets: dict[str, tuple[int, Tensor]]) -> None:
    """Fills each target, rows of the tensor of that name from the given one on; no others are read. Raises CheckpointError."""

    def take(name: str, piece: Piece, file: Any) -> None:
        first, target = targets[name]
        begin, end = max(first, piece.first), min(first + len(target), piece.first + piece.n_rows)
        if begin < end:
            target[begin - first : end - first].copy_(file.get_slice(name)[begin - piece.first : end - piece.first])

    _for_each_piece({name: headers[name] for name in targets}, take)


def _for_each_piece(headers: dict[str, Header], take: Callable[[str, Piece, Any], None]) -> None:
    by_file: dict[Path, list[tuple[str, Piece]]] = {}
    for name, header in headers.items():
        for piece in header.pieces:
            by_file.setdefault(piece.file, []).append((name, piece))
    for path, members in by_file.items():
        with _opened(path) as file:
            for name, piece in members:
                take(name, piece, file)


def _headers_of(path: Path) -> dict[str, Header]:
    headers = {}
    with _opened(path) as file:
        offsets = json.loads((file.metadata() or {}).get(_OFFSETS, "{}"))
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            first, *others = offsets.get(name, {}).get("saved_offsets") or [0]
            if any(others):
                raise CheckpointError(f"{path}: {name} is cut along more than its first dimension; save it whole")
            headers[name] = Header(shape, part.get_dtype(), (Piece(path, first, shape[0] if shape else 1),))
    return headers


def _joined(name: str, headers: list[Header]) -> Header:
    """One header of all pieces, which must follow upon each other without a gap."""
    if len(headers) == 1 and headers[0].pieces[0].first == 0:
        return headers[0]
    # a short tensor leaves nothing for some ranks
    pieces = sorted((h.pieces[0] for h in headers if h.pieces[0].n_rows), key=lambda piece: piece.first)
    n_rows = 0
    for piece, before in zip(pieces, [None, *pieces], strict=False):
        if piece.first < n_rows:
            assert before is not None
            raise CheckpointError(f"{piece.file}: holds {name}, and so does {before.file.name}; one of the two is stale")
        if piece.first > n_rows:
            raise CheckpointError(f"{piece.file.parent}: rows {n_rows} to {piece.first} of {name} are missing; copy it again, whole")
        n_rows += piece.n_rows
    return Header((n_rows, *headers[0].shape[1:]), headers[0].dtype, tuple(pieces))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); is it a safetensors file?") from None
