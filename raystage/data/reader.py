"""The batches of one rank, step after step, in the global order."""

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from raystage.data.batch import Batch, read_batch
from raystage.data.order import RowOrder
from raystage.data.place import Place
from raystage.data.rows import Rows
from raystage.data.step_cut import Cut, Cutting, cut, fingerprint, rank_slice


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A step of `n_sequences` over all ranks; of these `share` of `n_shares` is computed here."""

    n_sequences: int
    seq_len_tokens: int
    share: int
    n_shares: int


class Reader:
    """Reads a step ahead, in a thread. A batch depends on seed, place and what is wanted alone, whether it was read ahead or not."""

    def __init__(self, rows: Rows, seed: int, cutting: Cutting) -> None:
        self._rows, self._order, self._cutting = rows, RowOrder(len(rows), seed), cutting
        self._thread = ThreadPoolExecutor(1, "reader")
        self._asked: tuple[Place, Wanted] | None = None
        self._ahead: Future[tuple[Cut, Batch]] | None = None

    def read(self, place: Place, wanted: Wanted) -> tuple[Cut, Batch]:
        """The sequences of the step at `place`, and this rank's tokens. Those of the step after it are read while it is computed, and
        thrown away if something else is wanted then."""
        ahead = self._ahead if self._asked == (place, wanted) else None
        found = self._read(place, wanted) if ahead is None else ahead.result()
        self._asked = found[0].place_after, wanted
        self._ahead = self._thread.submit(self._read, *self._asked)
        return found

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
