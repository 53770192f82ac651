"""Where a run stands in the global order of target tokens, and what became of every token before it."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Cutoff:
    """`n_rows` consecutive rows of the global order whose targets after the first `kept_tokens` were cut off and wait."""

    first_row: int
    n_rows: int
    kept_tokens: int

    @property
    def end_row(self) -> int:
        return self.first_row + self.n_rows


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in the global order, and the account of the target tokens up to it. Every step holds, exactly:

    `cursor == tokens_seen - tokens_undone - tokens_repeated + tokens_dropped + tokens_waiting + tokens_skipped`

    `cursor`: targets of the order passed so far, whatever became of them; `waiting`: rows to be trained again whole, oldest
    first; `tokens_dropped`: cut off for good; `tokens_recycled`: trained after they had waited; `tokens_repeated`: trained a
    second time, as heads of rows that waited; `tokens_skipped`: learned, unlearned by a rollback, and not to come again. Kept
    elsewhere: tokens_seen, every target that a gradient was taken on, recycled and repeated ones too, and tokens_undone, those
    of them that rollbacks have taken back.
    """

    cursor: int = 0
    waiting: tuple[Cutoff, ...] = ()
    tokens_dropped: int = 0
    tokens_recycled: int = 0
    tokens_repeated: int = 0
    tokens_skipped: int = 0

    def tokens_waiting(self, context_length: int) -> int:
        """Targets that were cut off and are still to be trained."""
        return sum(span.n_rows * (context_length - span.kept_tokens) for span in self.waiting)

    def next_row(self, context_length: int) -> int:
        """The first row of the order of which nothing was taken yet."""
        return -(-self.cursor // context_length)

    def started_row_dropped(self, context_length: int) -> "Place":
        """At the border of a row: what is left of one that segments began is dropped."""
        border = self.next_row(context_length) * context_length
        return dataclasses.replace(self, cursor=border, tokens_dropped=self.tokens_dropped + border - self.cursor)

    def started_row_waits(self, context_length: int) -> "Place":
        """At the border of a row: what is left of one that segments began waits."""
        row, kept_tokens = divmod(self.cursor, context_length)
        return self._passed(Cutoff(row, 1, kept_tokens), context_length) if kept_tokens else self

    def heads_taken(self, n_rows: int, kept_tokens: int, context_length: int) -> "Place":
        """After the first `kept_tokens` of the next `n_rows` rows were trained: their tails, where there are any, wait."""
        assert self.cursor % context_length == 0, "heads are taken from the border of a row on"
        return self._passed(Cutoff(self.next_row(context_length), n_rows, kept_tokens), context_length)

    def _passed(self, span: Cutoff, context_length: int) -> "Place":
        waiting = _merged((*self.waiting, span)) if span.kept_tokens < context_length else self.waiting
        return dataclasses.replace(self, cursor=span.end_row * context_length, waiting=waiting)

    def waiting_taken(self, n_rows_max: int, context_length: int) -> tuple[NDArray[np.int64], "Place"]:
        """The oldest rows that wait, up to `n_rows_max`, and the place after they were trained whole."""
        rows: list[int] = []
        left: list[Cutoff] = []
        recycled, repeated = self.tokens_recycled, self.tokens_repeated
        for span in self.waiting:
            n_rows = min(span.n_rows, n_rows_max - len(rows))
            rows.extend(range(span.first_row, span.first_row + n_rows))
            recycled += n_rows * (context_length - span.kept_tokens)
            repeated += n_rows * span.kept_tokens
            left.append(Cutoff(span.first_row + n_rows, span.n_rows - n_rows, span.kept_tokens))
        after = dataclasses.replace(self, waiting=_merged(tuple(left)), tokens_recycled=recycled, tokens_repeated=repeated)
        return np.array(rows, dtype=np.int64), after

    def after_rollback(self, lost: "Place", context_length: int) -> "Place":
        """Parameters go back to this place's, the order goes on from the `lost` one; what was seen in between is undone.

        It counts as skipped, but for the heads of rows that still wait: they wait with their tails.
        """
        assert lost.cursor >= self.cursor, "a rollback goes back to an earlier place"
        waiting = _merged(tuple(part for span in lost.waiting for part in _known_parts(span, self.cursor, context_length)))
        place = dataclasses.replace(self, cursor=lost.cursor, waiting=waiting, tokens_dropped=lost.tokens_dropped, tokens_skipped=0)
        return dataclasses.replace(place, tokens_skipped=place._learned(context_length) - self._learned(context_length))

    def _learned(self, context_length: int) -> int:
        """Different targets that the parameters know: tokens_seen - tokens_undone - tokens_repeated."""
        return self.cursor - self.tokens_dropped - self.tokens_waiting(context_length) - self.tokens_skipped

    def to_json(self) -> dict[str, Any]:
        """A tree of dicts, lists and integers."""
        return {**dataclasses.asdict(self), "waiting": [dataclasses.asdict(span) for span in self.waiting]}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Place":
        """The place that `to_json` wrote."""
        return Place(**{**tree, "waiting": tuple(Cutoff(**span) for span in tree["waiting"])})


def _merged(spans: tuple[Cutoff, ...]) -> tuple[Cutoff, ...]:
    """Neighbours that keep as much become one and empty spans go, so that there are as many as stages, not as steps."""
    merged: list[Cutoff] = []
    for span in spans:
        if merged and (merged[-1].end_row, merged[-1].kept_tokens) == (span.first_row, span.kept_tokens):
            merged[-1] = Cutoff(merged[-1].first_row, merged[-1].n_rows + span.n_rows, span.kept_tokens)
        elif span.n_rows:
            merged.append(span)
    return tuple(merged)


def _known_parts(span: Cutoff, cursor: int, context_length: int) -> tuple[Cutoff, ...]:
    """A span as it is where nothing after `cursor` was learned: rows before it, the row it lies in, rows after it."""
    row, offset = divmod(cursor, context_length)
    before = min(max(row - span.first_row, 0), span.n_rows)
    inside = min(max(row + 1 - span.first_row, 0), span.n_rows) - before
    return (
        Cutoff(span.first_row, before, span.kept_tokens),
        Cutoff(span.first_row + before, inside, min(span.kept_tokens, offset)),
        Cutoff(span.first_row + before + inside, span.n_rows - before - inside, 0),
    )
