"""A step's tensors of one rank, rows for validation, and attention that stops at documents."""

import numpy as np
import torch

from raystage.data.batch import IGNORED, document_mask, read_batch, spread_rows
from raystage.data.order import RowOrder
from raystage.data.place import Place
from raystage.data.rows import Rows
from raystage.data.step_cut import cut

CONTEXT = 24


def rows_of(n_rows: int) -> Rows:
    return Rows(np.arange(n_rows * CONTEXT + 1, dtype=np.uint16), CONTEXT)


def test_a_rank_without_sequences_gets_one_of_zero_weight() -> None:
    batch = read_batch(rows_of(3), RowOrder(3, 0), cut(Place(), 1, 8, CONTEXT, "segment"), slice(0, 0), 8)
    assert batch.inputs_BL.shape == (1, 8)
    assert bool((batch.targets_BL == IGNORED).all())


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
