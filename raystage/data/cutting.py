"""Shorter sequences for people with their own loop: a batch of token numbers, cut into pieces or cut off.

Shapes: B sequences of L tokens. A batch is a tensor (B, L), or a dict with `input_ids` (B, L) and what belongs to it:
every tensor whose shape begins with (B, L) is cut alike. Nothing is changed in place. Labels are those of transformers,
as long as the input and shifted inside the model, so that the first token of a sequence is never a target.
"""

from collections.abc import Mapping
from typing import Any, overload

import torch
from torch import Tensor

from raystage.data.batch import IGNORED

_PADDING = {"labels": IGNORED, "shift_labels": IGNORED}  # all else is padded with 0
_MARKS_PADDING = ("attention_mask", "labels", "shift_labels")


@overload
def segment(batch: Tensor, length: int) -> Tensor: ...
@overload
def segment(batch: Mapping[str, Any], length: int) -> dict[str, Any]: ...


def segment(batch: Tensor | Mapping[str, Any], length: int) -> Tensor | dict[str, Any]:
    """Cuts every sequence into ceil(L / length) pieces, one below the other: (B, L) becomes (B * ceil(L / length), length).

    No token is lost. Where `length` does not divide L, the last piece of a sequence is padded on the right: attention_mask 0,
    labels -100, else 0. Tensors of one value a sequence, shape (B, ...), are repeated for its pieces; anything else, and a
    batch that is no longer than `length`, stays. Raises ValueError for other shapes, and where nothing could mark the padding.
    """
    shape = _shape(batch, length)
    if shape[1] <= length:
        return batch if isinstance(batch, Tensor) else dict(batch)
    pads = shape[1] % length != 0
    if isinstance(batch, Tensor):
        if pads:
            raise ValueError(
                f"{length} does not divide the {shape[1]} tokens of a sequence; choose a length that does, "
                "or give a dict with input_ids and an attention_mask or labels, which can mark padding"
            )
        return _pieces(batch, length, 0)
    if pads and all(batch.get(key) is None for key in _MARKS_PADDING):
        raise ValueError(
            f"{length} does not divide the {shape[1]} tokens of a sequence and nothing can mark the padding; "
            "choose a length that does, or add an attention_mask or labels to the batch"
        )
    n_pieces = -(-shape[1] // length)
    cut: dict[str, Any] = {}
    for key, value in batch.items():
        if _is_cut(value, shape):
            cut[key] = _pieces(value, length, _PADDING.get(key, 0))
        elif isinstance(value, Tensor) and value.ndim and value.shape[0] == shape[0]:
            cut[key] = value.repeat_interleave(n_pieces, dim=0)
        else:
            cut[key] = value
    return cut


@overload
def truncate(batch: Tensor, length: int, keep_end_token: bool = False) -> Tensor: ...
@overload
def truncate(batch: Mapping[str, Any], length: int, keep_end_token: bool = False) -> dict[str, Any]: ...


def truncate(batch: Tensor | Mapping[str, Any], length: int, keep_end_token: bool = False) -> Tensor | dict[str, Any]:
    """Keeps the first `length` tokens of every sequence: (B, L) becomes (B, length).

    `keep_end_token`: a sequence that is cut off still ends with its last real token (as attention_mask has it), in input_ids
    and labels alike. Anything that is not (B, L, ...), and a batch that is no longer than `length`, stays. Raises ValueError
    for other shapes, for padding on the left, and for keep_end_token with shift_labels.
    """
    shape = _shape(batch, length)
    if shape[1] <= length:
        return batch if isinstance(batch, Tensor) else dict(batch)
    if isinstance(batch, Tensor):
        last = torch.full((shape[0],), shape[1] - 1, device=batch.device)
        return _head(batch, length, last if keep_end_token else None)
    last = _last_real(batch, shape)
    if keep_end_token and "shift_labels" in batch:
        raise ValueError("keep_end_token cannot tell which of shift_labels to replace; give labels, or set it to False")
    ended = ("input_ids", "labels") if keep_end_token else ()
    return {key: _head(value, length, last if key in ended else None) if _is_cut(value, shape) else value for key, value in batch.items()}


def _shape(batch: Tensor | Mapping[str, Any], length: int) -> tuple[int, int]:
    """(B, L), after the checks that both ways of cutting share."""
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"length={length!r}: a whole number of tokens, 1 or more")
    named: Mapping[str, Any] = {"input_ids": batch} if isinstance(batch, Tensor) else batch
    ids = named.get("input_ids")
    if not isinstance(ids, Tensor):
        raise ValueError(f"the batch has no tensor input_ids, only {sorted(named)}")
    if ids.ndim != 2:
        raise ValueError(f"token numbers have shape {tuple(ids.shape)}; (batch, length) is needed")
    n_sequences, n_tokens = ids.shape
    for key in _MARKS_PADDING:
        value = named.get(key)
        if value is not None and (not isinstance(value, Tensor) or value.shape[:2] != ids.shape):
            raise ValueError(f"{key} is not a tensor of shape ({n_sequences}, {n_tokens}) as input_ids is, and cannot be cut with it")
    return n_sequences, n_tokens


def _is_cut(value: Any, shape: tuple[int, int]) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2 and tuple(value.shape[:2]) == shape


def _pieces(value: Tensor, length: int, padding: int) -> Tensor:
    """(B, L, ...) as (B * n, length, ...), padded on the right."""
    n_missing = -value.shape[1] % length
    if n_missing:
        value = torch.cat([value, value.new_full((value.shape[0], n_missing, *value.shape[2:]), padding)], dim=1)
    return value.reshape(-1, length, *value.shape[2:])


def _last_real(batch: Mapping[str, Any], shape: tuple[int, int]) -> Tensor:
    """The place of every sequence's last real token, shape (B,)."""
    device = batch["input_ids"].device
    if batch.get("attention_mask") is None:
        return torch.full((shape[0],), shape[1] - 1, device=device)
    is_real = batch["attention_mask"] != 0
    if bool((is_real[:, 1:] & ~is_real[:, :-1]).any()):
        raise ValueError("the attention_mask has padding before tokens; truncation keeps heads, so pad on the right, or segment")
    return (is_real.sum(1) - 1).clamp(min=0)


def _head(value: Tensor, length: int, last: Tensor | None) -> Tensor:
    head = value[:, :length].clone()
    if last is not None:
        row = torch.arange(len(value), device=value.device)
        head[row, last.clamp(max=length - 1)] = value[row, last]
    return head
