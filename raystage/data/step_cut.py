"""Cutting rows into the sequences of one step: which tokens, of which rows, in which order. Numbers alone, no tensors."""

import dataclasses
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raystage.data.order import RowOrder
from raystage.data.place import Place

Cutting = Literal["segment", "truncate", "recycle"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """The sequences of one step, over all ranks.

    `position`, `offset`, `n_targets`, shape (n_sequences,): the row's place in the order, the first input
    token in it, and how many targets are taken. `place_after`: where the next step goes on, with the account.
    """

    position: NDArray[np.int64]
    offset: NDArray[np.int64]
    n_targets: NDArray[np.int64]
    place_after: Place

    @property
    def tokens(self) -> int:
        return int(self.n_targets.sum())


def cut(place: Place, n_sequences: int, seq_len_tokens: int, context_length: int, mode: Cutting) -> Cut:
    """`n_sequences` sequences of up to `seq_len_tokens` targets from `place` on.

    `segment` cuts a row into consecutive pieces and keeps every token (the last piece of a row is shorter
    where the length does not divide the context); `truncate` takes the head of each row and drops its tail;
    `recycle` takes heads and lets the tails wait: at the full context length, the rows that wait come again
    whole, oldest first, before fresh ones. A row begun in segments is dropped (truncate) or waits (recycle).
    """
    assert n_sequences > 0
    assert 0 < seq_len_tokens <= context_length
    if mode == "segment":
        return _segments(place, n_sequences, seq_len_tokens, context_length)
    if mode == "truncate":
        return _heads(place.started_row_dropped(context_length), n_sequences, seq_len_tokens, context_length)
    return _heads_and_waiting(place.started_row_waits(context_length), n_sequences, seq_len_tokens, context_length)


def _segments(place: Place, n_sequences: int, seq_len_tokens: int, context_length: int) -> Cut:
    starts = _segment_starts(place.cursor, n_sequences, seq_len_tokens, context_length)
    position, offset = starts // context_length, starts % context_length
    n_targets = np.minimum(seq_len_tokens, context_length - offset)
    return Cut(position, offset, n_targets, dataclasses.replace(place, cursor=int(starts[-1] + n_targets[-1])))


def _heads(place: Place, n_sequences: int, seq_len_tokens: int, context_length: int) -> Cut:
    position = place.next_row(context_length) + np.arange(n_sequences, dtype=np.int64)
    after = dataclasses.replace(
        place,
        cursor=place.cursor + n_sequences * context_length,
        tokens_dropped=place.tokens_dropped + n_sequences * (context_length - seq_len_tokens),
    )
    return _from_row_starts(position, seq_len_tokens, after)


def _heads_and_waiting(place: Place, n_sequences: int, seq_len_tokens: int, context_length: int) -> Cut:
    n_again = n_sequences if seq_len_tokens == context_length else 0
    again, place = place.waiting_taken(n_again, context_length)
    n_fresh = n_sequences - len(again)
    fresh = place.next_row(context_length) + np.arange(n_fresh, dtype=np.int64)
    return _from_row_starts(np.concatenate([again, fresh]), seq_len_tokens, place.heads_taken(n_fresh, seq_len_tokens, context_length))


def _from_row_starts(position: NDArray[np.int64], seq_len_tokens: int, place_after: Place) -> Cut:
    return Cut(position, np.zeros_like(position), np.full_like(position, seq_len_tokens), place_after)


def _segment_starts(cursor: int, n_sequences: int, seq_len_tokens: int, context_length: int) -> NDArray[np.int64]:
    """Cursors at which segments start: every seq_len_tokens from the row's start, or from a cursor inside a row."""
    row, offset = divmod(cursor, context_length)
    first_row = np.arange(offset, context_length, seq_len_tokens, dtype=np.int64) + row * context_length
    whole_row = np.arange(0, context_length, seq_len_tokens, dtype=np.int64)
    n_rows = max(0, -(-(n_sequences - len(first_row)) // len(whole_row)))
    later = (row + 1 + np.arange(n_rows, dtype=np.int64))[:, None] * context_length + whole_row
    return np.concatenate([first_row, later.reshape(-1)])[:n_sequences]


def rank_slice(n_sequences: int, rank: int, world_size: int) -> slice:
    """The sequences that one rank computes: contiguous, and uneven by at most one."""
    return slice(n_sequences * rank // world_size, n_sequences * (rank + 1) // world_size)


def most_micro_batches(n_sequences: int, world_size: int, micro_batch: int) -> int:
    """Micro-batches of up to `micro_batch` sequences on the rank that has the most: FSDP needs as many passes on every rank."""
    largest_slice = -(-n_sequences // world_size)
    return -(-largest_slice // micro_batch)


def fingerprint(order: RowOrder, cut_: Cut) -> int:
    """CRC-32 of which tokens a step takes, over all ranks, and in which order: the same for any number of workers."""
    numbers = np.concatenate([order.rows(cut_.position), cut_.offset, cut_.n_targets])
    return zlib.crc32(numbers.astype("<i8").tobytes())
