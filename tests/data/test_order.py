"""The order of rows is a promise: a run that goes on under another version of raystage or NumPy must go on in the same one."""

import numpy as np

from raystage.data.order import RowOrder


def test_the_order_of_a_seed_is_the_one_it_has_always_been() -> None:
    found = RowOrder(8, seed=4).rows(np.arange(16))
    assert found.tolist() == [7, 4, 5, 2, 1, 0, 3, 6, 2, 5, 6, 4, 3, 7, 0, 1]


def test_every_epoch_has_every_row_once_and_an_order_of_its_own() -> None:
    order = RowOrder(50, seed=1)
    epochs = order.rows(np.arange(150)).reshape(3, 50)
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert order.rows(np.arange(20)).tolist() != RowOrder(50, seed=2).rows(np.arange(20)).tolist()


def test_positions_in_any_order_have_the_rows_they_have_alone() -> None:
    order, positions = RowOrder(10, seed=3), np.array([25, 3, 12, 3, 39])
    assert order.rows(positions).tolist() == [int(order.rows(np.array([p]))[0]) for p in positions]
