"""Both cutting modes, token by token, and the slices of ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raystage.data.batch import IGNORED, Batch, Cut, cut, document_mask, rank_slice, read_batch, spread_rows
from raystage.data.order import RowOrder
from raystage.data.rows import Rows

CONTEXT = 24


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
    rows, order, cursor, found = rows_of(10), RowOrder(10, seed=3), 0, []
    while cursor < 10 * CONTEXT:
        step = cut(cursor, 2, seq_len, CONTEXT, "segment")
        batch = read_batch(rows, order, step, slice(0, 2), seq_len)
        real = batch.targets_BL != IGNORED
        assert torch.equal(batch.targets_BL[real], batch.inputs_BL[real] + 1)
        found += targets_of(batch)
        assert step.n_dropped == 0
        cursor = step.cursor_after
    expected = [int(t) for row in order.rows(np.arange(10)) for t in range(row * CONTEXT + 1, (row + 1) * CONTEXT + 1)]
    assert found[: len(expected)] == expected


def test_truncate_takes_the_head_of_each_row_and_counts_the_rest() -> None:
    rows, order = rows_of(6), RowOrder(6, seed=1)
    step = cut(0, 3, 8, CONTEXT, "truncate")
    heads = [list(range(row * CONTEXT + 1, row * CONTEXT + 9)) for row in order.rows(np.arange(3))]
    assert read(rows, order, step, 8) == [t for head in heads for t in head]
    assert (step.tokens, step.n_dropped, step.cursor_after) == (24, 3 * (CONTEXT - 8), 3 * CONTEXT)
    assert cut(step.cursor_after, 3, CONTEXT, CONTEXT, "truncate").n_dropped == 0


def test_a_longer_length_in_the_middle_of_a_row_goes_on_where_the_shorter_stopped() -> None:
    rows, order = rows_of(4), RowOrder(4, seed=2)
    first = cut(0, 1, 8, CONTEXT, "segment")
    second = cut(first.cursor_after, 2, CONTEXT, CONTEXT, "segment")
    a, b = order.rows(np.arange(2)) * CONTEXT
    assert read(rows, order, second, CONTEXT) == [*range(a + 9, a + CONTEXT + 1), *range(b + 1, b + CONTEXT + 1)]


@given(
    cursor=st.integers(0, 500),
    n=st.integers(1, 9),
    seq_len=st.sampled_from([8, 16, 24]),
    mode=st.sampled_from(["segment", "truncate"]),
    world_size=st.integers(1, 5),
)
def test_the_account_adds_up_and_ranks_share_the_same_tokens(cursor: int, n: int, seq_len: int, mode: str, world_size: int) -> None:
    rows, order = rows_of(7), RowOrder(7, seed=9)
    step = cut(cursor, n, seq_len, CONTEXT, mode)  # type: ignore[arg-type]
    assert step.tokens + step.n_dropped == step.cursor_after - cursor
    assert step.n_targets.max() <= seq_len
    assert read(rows, order, step, seq_len, world_size) == read(rows, order, step, seq_len)
    assert len(read(rows, order, step, seq_len)) == step.tokens


def test_a_rank_without_sequences_gets_one_of_zero_weight() -> None:
    batch = read_batch(rows_of(3), RowOrder(3, 0), cut(0, 1, 8, CONTEXT, "segment"), slice(0, 0), 8)
    assert batch.inputs_BL.shape == (1, 8)
    assert targets_of(batch) == []


def test_the_order_visits_every_row_once_an_epoch_and_differs_between_epochs() -> None:
    order = RowOrder(50, seed=4)
    first, second = order.rows(np.arange(50)), order.rows(np.arange(50, 100))
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)
    assert list(RowOrder(50, seed=4).rows(np.arange(25, 75))) == [*first[25:], *second[:25]]
    assert list(RowOrder(50, seed=5).rows(np.arange(50))) != list(first)


def test_spread_rows_reach_over_all_of_them() -> None:
    rows = rows_of(10)
    assert list(spread_rows(rows, 5)) == [0, 2, 4, 6, 8]
    assert list(spread_rows(rows, 99)) == list(range(10))


def test_document_mask_stops_attention_and_restarts_positions() -> None:
    inputs = torch.tensor([[5, 6, 0, 7, 0, 8]])
    mask, position = document_mask(inputs, eot_id=0)
    allowed = [[q >= k and doc_q == doc_k for k, doc_k in enumerate([0, 0, 0, 1, 1, 2])] for q, doc_q in enumerate([0, 0, 0, 1, 1, 2])]
    assert mask[0, 0].tolist() == allowed
    assert position.tolist() == [[0, 1, 2, 0, 1, 0]]
