"""The cutting modes, token by token, the account over whole runs, and the slices of ranks."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raystage.data.batch import IGNORED, Batch, read_batch
from raystage.data.order import RowOrder
from raystage.data.place import Cutoff, Place
from raystage.data.rows import Rows
from raystage.data.step_cut import Cut, Cutting, cut, rank_slice

CONTEXT = 24
MODES: list[Cutting] = ["segment", "truncate", "recycle"]


def rows_of(n_rows: int) -> Rows:
    return Rows(np.arange(n_rows * CONTEXT + 1, dtype=np.uint16), CONTEXT)


def targets_of(batch: Batch) -> list[int]:
    return [int(t) for t in batch.targets_BL.flatten() if t != IGNORED]


def read(rows: Rows, order: RowOrder, cut_: Cut, seq_len: int, world_size: int = 1) -> list[int]:
    """All targets of a step, in the order of the ranks."""
    found = []
    for rank in range(world_size):
        found += targets_of(read_batch(rows, order, cut_, rank_slice(len(cut_.position), rank, world_size), seq_len))
    return found


@pytest.mark.parametrize("seq_len", [8, 12, 24, 16])
def test_segment_keeps_every_token_once(seq_len: int) -> None:
    rows, order, place, found = rows_of(10), RowOrder(10, seed=3), Place(), []
    while place.cursor < 10 * CONTEXT:
        step = cut(place, 2, seq_len, CONTEXT, "segment")
        batch = read_batch(rows, order, step, slice(0, 2), seq_len)
        real = batch.targets_BL != IGNORED
        assert torch.equal(batch.targets_BL[real], batch.inputs_BL[real] + 1)
        found += targets_of(batch)
        place = step.place_after
    expected = [int(t) for row in order.rows(np.arange(10)) for t in range(row * CONTEXT + 1, (row + 1) * CONTEXT + 1)]
    assert found[: len(expected)] == expected
    assert place == Place(cursor=len(found))


def test_truncate_takes_the_head_of_each_row_and_counts_the_rest() -> None:
    rows, order = rows_of(6), RowOrder(6, seed=1)
    step = cut(Place(), 3, 8, CONTEXT, "truncate")
    heads = [list(range(row * CONTEXT + 1, row * CONTEXT + 9)) for row in order.rows(np.arange(3))]
    assert read(rows, order, step, 8) == [t for head in heads for t in head]
    dropped = Place(cursor=3 * CONTEXT, tokens_dropped=3 * (CONTEXT - 8))
    assert (step.tokens, step.place_after) == (24, dropped)
    assert cut(dropped, 3, CONTEXT, CONTEXT, "truncate").place_after == dataclasses.replace(dropped, cursor=6 * CONTEXT)


def test_recycle_trains_the_rows_again_whole_oldest_first_then_fresh_ones() -> None:
    rows, order = rows_of(6), RowOrder(6, seed=1)
    short = cut(Place(), 3, 8, CONTEXT, "recycle")
    assert read(rows, order, short, 8) == read(rows, order, cut(Place(), 3, 8, CONTEXT, "truncate"), 8)
    assert short.place_after == Place(cursor=3 * CONTEXT, waiting=(Cutoff(0, 3, 8),))
    first = cut(short.place_after, 2, CONTEXT, CONTEXT, "recycle")
    mixed = cut(first.place_after, 3, CONTEXT, CONTEXT, "recycle")
    assert (list(first.position), list(mixed.position)) == ([0, 1], [2, 3, 4])
    whole = [int(t) for row in order.rows(np.arange(5)) for t in range(row * CONTEXT + 1, (row + 1) * CONTEXT + 1)]
    assert read(rows, order, first, CONTEXT) + read(rows, order, mixed, CONTEXT) == whole
    assert mixed.place_after == Place(cursor=5 * CONTEXT, tokens_recycled=3 * 16, tokens_repeated=3 * 8)


def test_rows_wait_through_longer_stages_that_are_not_yet_full() -> None:
    short = cut(Place(), 2, 8, CONTEXT, "recycle").place_after
    longer = cut(short, 2, 16, CONTEXT, "recycle").place_after
    assert longer.waiting == (Cutoff(0, 2, 8), Cutoff(2, 2, 16))
    assert list(cut(longer, 5, CONTEXT, CONTEXT, "recycle").position) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seq_len", [8, CONTEXT])
def test_a_row_begun_in_segments_is_dropped_or_waits(seq_len: int) -> None:
    begun = cut(Place(), 1, 8, CONTEXT, "segment").place_after
    truncated = cut(begun, 1, seq_len, CONTEXT, "truncate")
    assert (list(truncated.position), truncated.place_after.tokens_dropped) == ([1], 16 + CONTEXT - seq_len)
    recycled = cut(begun, 1, seq_len, CONTEXT, "recycle")
    if seq_len == CONTEXT:
        assert (list(recycled.position), list(recycled.offset)) == ([0], [0])
        assert recycled.place_after == Place(cursor=CONTEXT, tokens_recycled=16, tokens_repeated=8)
    else:
        assert (list(recycled.position), recycled.place_after.waiting) == ([1], (Cutoff(0, 2, 8),))


def test_a_longer_length_in_the_middle_of_a_row_goes_on_where_the_shorter_stopped() -> None:
    rows, order = rows_of(4), RowOrder(4, seed=2)
    first = cut(Place(), 1, 8, CONTEXT, "segment")
    second = cut(first.place_after, 2, CONTEXT, CONTEXT, "segment")
    a, b = order.rows(np.arange(2)) * CONTEXT
    assert read(rows, order, second, CONTEXT) == [*range(a + 9, a + CONTEXT + 1), *range(b + 1, b + CONTEXT + 1)]


@given(
    cursor=st.integers(0, 500),
    n=st.integers(1, 9),
    seq_len=st.sampled_from([8, 16, 24]),
    mode=st.sampled_from(MODES),
    n_waiting=st.integers(0, 12),
    world_size=st.integers(1, 5),
)
def test_ranks_share_the_same_tokens(cursor: int, n: int, seq_len: int, mode: Cutting, n_waiting: int, world_size: int) -> None:
    rows, order = rows_of(7), RowOrder(7, seed=9)
    n_waiting = min(n_waiting, cursor // CONTEXT)
    step = cut(Place(cursor, (Cutoff(0, n_waiting, 8),) if n_waiting else ()), n, seq_len, CONTEXT, mode)
    assert step.n_targets.max() <= seq_len
    assert len(step.position) == n
    assert read(rows, order, step, seq_len, world_size) == read(rows, order, step, seq_len)
    assert len(read(rows, order, step, seq_len)) == step.tokens


@dataclasses.dataclass
class Ledger:
    """What became of every single target, kept the slow way; `fates` up to the cursor, `tokens_seen` and `tokens_undone` go on for ever."""

    fates: list[str] = dataclasses.field(default_factory=list)
    tokens_seen: int = 0
    tokens_undone: int = 0
    recycled: int = 0
    repeated: int = 0

    def after(self, step: Cut, mode: Cutting) -> "Ledger":
        fates, recycled, repeated = list(self.fates), self.recycled, self.repeated
        if mode == "recycle":
            fates += ["waiting"] * (-len(fates) % CONTEXT)
        fates += ["passed over"] * (step.place_after.cursor - len(fates))
        for position, offset, n_targets in zip(step.position, step.offset, step.n_targets, strict=True):
            for i in range(position * CONTEXT + offset, position * CONTEXT + offset + n_targets):
                assert fates[i] != "dropped"
                recycled += fates[i] == "waiting"
                repeated += fates[i] in ("learned", "skipped")
                fates[i] = "skipped" if fates[i] == "skipped" else "learned"
        left_over = {"truncate": "dropped", "recycle": "waiting"}.get(mode, "lost by segments")
        fates = [left_over if fate == "passed over" else fate for fate in fates]
        return Ledger(fates, self.tokens_seen + step.tokens, self.tokens_undone, recycled, repeated)

    def after_rollback(self, lost: "Ledger") -> "Ledger":
        fates = list(lost.fates)
        for i, fate in enumerate(lost.fates):
            row = i // CONTEXT * CONTEXT
            if i >= len(self.fates) and fate in ("learned", "skipped"):
                fates[i] = "waiting" if "waiting" in lost.fates[row : row + CONTEXT] else "skipped"
            elif fate == "learned" and self.fates[i] != "learned":
                fates[i] = "skipped"
        tokens_undone = self.tokens_undone + lost.tokens_seen - self.tokens_seen
        return Ledger(fates, lost.tokens_seen, tokens_undone, self.recycled, self.repeated)

    def check(self, place: Place) -> None:
        count = self.fates.count
        waiting, seen = place.tokens_waiting(CONTEXT), self.tokens_seen - self.tokens_undone
        assert place.cursor == seen - place.tokens_repeated + place.tokens_dropped + waiting + place.tokens_skipped
        assert place.cursor == len(self.fates)
        assert (count("dropped"), count("waiting"), count("skipped")) == (place.tokens_dropped, waiting, place.tokens_skipped)
        assert (self.recycled, self.repeated) == (place.tokens_recycled, place.tokens_repeated)
        assert count("learned") == seen - self.repeated


STAGES = st.tuples(
    st.sampled_from(MODES),
    st.sampled_from([5, 8, 16, 23, CONTEXT]),
    st.sampled_from(["tokens", "sequences"]),
    st.integers(1, 5),
    st.sampled_from(["", "", "save", "roll back"]),
)


@settings(max_examples=300, deadline=None)
@given(stages=st.lists(STAGES, min_size=1, max_size=12), batch_sequences=st.integers(1, 5))
def test_the_account_adds_up_after_every_step_of_any_run(stages: list[tuple[Cutting, int, str, int, str]], batch_sequences: int) -> None:
    place, ledger = Place(), Ledger()
    checkpoints = [(place, ledger)]
    for mode, seq_len, batch_rule, n_steps, event in stages:
        n_sequences = batch_sequences * CONTEXT // seq_len if batch_rule == "tokens" else batch_sequences
        for _ in range(n_steps):
            step = cut(place, n_sequences, seq_len, CONTEXT, mode)
            place, ledger = step.place_after, ledger.after(step, mode)
            ledger.check(place)
            assert Place.from_json(json.loads(json.dumps(place.to_json()))) == place
        if event == "save":
            checkpoints.append((place, ledger))
        if event == "roll back":
            place, ledger = checkpoints[-1][0].after_rollback(place, CONTEXT), checkpoints[-1][1].after_rollback(ledger)
            ledger.check(place)
            checkpoints = checkpoints[: max(1, len(checkpoints) - 1)]
    assert len(place.waiting) <= 4 * len(stages)


def test_the_order_visits_every_row_once_an_epoch_and_differs_between_epochs() -> None:
    order = RowOrder(50, seed=4)
    first, second = order.rows(np.arange(50)), order.rows(np.arange(50, 100))
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)
    assert list(RowOrder(50, seed=4).rows(np.arange(25, 75))) == [*first[25:], *second[:25]]
    assert list(RowOrder(50, seed=5).rows(np.arange(50))) != list(first)
