"""The records of a metrics.jsonl line by line: what is wrong with a broken one is said."""

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from raystage.config.errors import ConfigError
from raystage.report.columns import KEYS, Block, Columns, Metrics, Values, blocks_of
from raystage.tracking.records import parse_line


class _Line(msgspec.Struct, gc=False):
    """What is read of a line, in the order in which training writes it: each key is then found at the first look."""

    kind: str
    tokens_seen: float | None = None
    flops: float | None = None
    time_s: float | None = None
    stage: float | None = None
    world_size: float | None = None
    device: str | None = None
    second_moment: float | None = None
    step: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    slope: float | None = None
    mfu: float | None = None
    val_loss: float | None = None
    stage_end: bool | None = None
    slope_bound: float | None = None
    threshold: float | None = None
    fired: bool | None = None


_GETTERS: dict[str, Callable[[_Line], Any]] = {key: attrgetter(key) for keys in KEYS.values() for key in keys}


def read_lines(path: Path) -> Metrics:
    """Raises ConfigError (file and line) for a broken line."""
    parts: dict[str, list[dict[str, Values]]] = {kind: [] for kind in KEYS}
    blocks: list[Block] = []
    device, offset, n_lines = "", 0, 0
    for block in blocks_of(path):
        n_here = int(np.count_nonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")))
        found = _by_kind(_decoded(block, path, n_lines, n_here))
        for kind, lines in found.items():
            parts[kind].append({key: np.array(list(map(_GETTERS[key], lines)), dtype=np.float64) for key in KEYS[kind]})
        device = next((line.device for line in reversed(found.get("start", [])) if line.device), device)
        blocks.append(Block(offset, len(block), len(found.get("train", []))))
        offset += len(block)
        n_lines += n_here
    return Metrics(path, {kind: _joined(kind, parts[kind]) for kind in KEYS}, device, blocks)


def _by_kind(lines: list[_Line]) -> dict[str, list[_Line]]:
    """The lines of the kinds that are read. Nearly all are of training, so the others are looked through apart."""
    train = [line for line in lines if line.kind == "train"]
    others = [line for line in lines if line.kind != "train" and line.kind in KEYS] if len(train) < len(lines) else []
    found = {kind: [line for line in others if line.kind == kind] for kind in {line.kind for line in others}}
    return found | {"train": train} if train else found


def _decoded(block: memoryview, path: Path, n_before: int, n_lines: int) -> list[_Line]:
    try:
        lines = _decoder.decode_lines(block)
    except msgspec.MsgspecError:
        return _one_by_one(block, path, n_before)
    # the decoder takes two records on a line and one on two; neither is what was written
    return lines if len(lines) == n_lines else _one_by_one(block, path, n_before)


_decoder = msgspec.json.Decoder(_Line)


def _one_by_one(block: memoryview, path: Path, n_before: int) -> list[_Line]:
    lines = []
    for number, text in enumerate(bytes(block).splitlines(), n_before + 1):
        if not text.strip():
            continue
        try:
            lines.append(_decoder.decode(text))
        except msgspec.MsgspecError as error:
            record = parse_line(text)
            if record is None:
                raise ConfigError(f"{path}:{number}: not a JSON object; mend or delete this line") from None
            if record.get("kind") in KEYS:
                raise ConfigError(f"{path}:{number}: {error}; mend or delete this line") from None
    return lines


def _joined(kind: str, parts: list[dict[str, Values]]) -> Columns:
    return Columns(kind, {key: np.concatenate([part[key] for part in parts] or [np.empty(0)]) for key in KEYS[kind]})
