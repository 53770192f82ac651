"""The batches of one rank, step after step, in the global order."""

import dataclasses
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from raystage.data.batch import Batch, read_batch
from raystage.data.order import RowOrder
from raystage.data.place import Place
from raystage.data.rows import Rows
from raystage.data.step_cut import Cut, Cutting, cut, fingerprint, rank_slice

BLOCK_TOKENS = 16_384  # of a rank, read in one go: to wake the thread takes 50 microseconds, which quick steps would feel one by one


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A step of `n_sequences` over all ranks; of these `share` of `n_shares` is computed here."""

    n_sequences: int
    seq_len_tokens: int
    share: int
    n_shares: int


class Reader:
    """Reads ahead, in a thread: the next step, or a block of several where steps are small, each twice the one before. A batch depends on
    seed, place and what is wanted alone, whether it was read ahead or not."""

    def __init__(self, rows: Rows, seed: int, cutting: Cutting) -> None:
        self._rows, self._order, self._cutting = rows, RowOrder(len(rows), seed), cutting
        self._thread = ThreadPoolExecutor(1, "reader")
        self._next: tuple[Place, Wanted] | None = None  # what the first of the block is, or of the one ahead
        self._block: deque[tuple[Cut, Batch]] = deque()
        self._ahead: Future[deque[tuple[Cut, Batch]]]

    def read(self, place: Place, wanted: Wanted) -> tuple[Cut, Batch]:
        """The sequences of the step at `place`, and this rank's tokens. Those after it are read while it is computed, and thrown away if
        something else is wanted then."""
        if self._next != (place, wanted):
            self._begin(self._read_block(place, wanted, 1), wanted)
        elif not self._block:
            self._begin(self._ahead.result(), wanted)
        cut_, batch = self._block.popleft()
        self._next = cut_.place_after, wanted
        return cut_, batch

    def _begin(self, block: deque[tuple[Cut, Batch]], wanted: Wanted) -> None:
        """Of this block the batches come now; the thread reads the block after it."""
        most = max(1, BLOCK_TOKENS * wanted.n_shares // (wanted.n_sequences * wanted.seq_len_tokens))
        self._block = block
        self._ahead = self._thread.submit(self._read_block, block[-1][0].place_after, wanted, min(2 * len(block), most))

    def _read_block(self, place: Place, wanted: Wanted, n_steps: int) -> deque[tuple[Cut, Batch]]:
        """Up to `n_steps`."""
        block: deque[tuple[Cut, Batch]] = deque()
        for _ in range(n_steps):
            try:
                block.append(self._read(place, wanted))
            except OSError:  # of the disk; it belongs to the step that wants the batch, which reads again and raises it
                if block:
                    break
                raise
            place = block[-1][0].place_after
        return block

    def _read(self, place: Place, wanted: Wanted) -> tuple[Cut, Batch]:
        cut_ = self.cut_at(place, wanted)
        mine = rank_slice(wanted.n_sequences, wanted.share, wanted.n_shares)
        return cut_, read_batch(self._rows, self._order, cut_, mine, wanted.seq_len_tokens)

    def cut_at(self, place: Place, wanted: Wanted) -> Cut:
        """The sequences of the step at `place`."""
        return cut(place, wanted.n_sequences, wanted.seq_len_tokens, self._rows.context_length, self._cutting)

    def row_numbers(self, cut_: Cut) -> list[int]:
        """The rows of the corpus in a step, sorted."""
        return [int(row) for row in np.unique(self._order.rows(cut_.position))]

    def fingerprint(self, cut_: Cut) -> int:
        """CRC-32 of which tokens a step takes."""
        return fingerprint(self._order, cut_)
