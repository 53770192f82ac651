from pathlib import Path

import numpy as np
import pytest

from raystage.data.rows import Rows
from tests.config.refusal import message_of


def test_row_i_starts_at_i_context_lengths() -> None:
    rows = Rows(np.arange(100, dtype="<u2"), 8)
    assert len(rows) == 12  # 12 * 8 + 1 <= 100
    chosen = rows[np.array([3, 0, 11])]
    assert chosen.dtype == np.int64
    assert chosen.shape == (3, 9)
    assert chosen.tolist() == [list(range(24, 33)), list(range(9)), list(range(88, 97))]


@pytest.mark.parametrize("n_tokens", [9, 16, 17, 18, 1000])
def test_every_token_is_a_target_once(n_tokens: int) -> None:
    rows = Rows(np.arange(n_tokens, dtype="<u2"), 8)
    targets = rows[:][:, 1:].ravel()
    assert targets.tolist() == list(range(1, (n_tokens - 1) // 8 * 8 + 1))


def test_rows_are_not_views_of_the_file(tmp_path: Path) -> None:
    np.arange(100, dtype="<u4").tofile(tmp_path / "a.bin")
    tokens = np.memmap(tmp_path / "a.bin", dtype="<u4", mode="r")
    row = Rows(tokens, 8)[[1]]
    row[0, 0] = 7
    assert tokens[8] == 8


def test_row_that_does_not_exist() -> None:
    rows = Rows(np.arange(17, dtype="<u2"), 8)
    with pytest.raises(IndexError):
        rows[[2]]


def test_too_few_tokens_is_one_line() -> None:
    line = message_of(lambda: Rows(np.arange(8, dtype="<u2"), 8))
    assert line.startswith("model.context_length=8: needs 9 tokens")
    assert "has 8" in line


def test_pieces_begin_inside_rows_and_end_with_them() -> None:
    rows = Rows(np.arange(33, dtype="<u2"), 8)
    pieces = rows.pieces(np.array([3, 0, 2]), np.array([0, 2, 6]), 4)
    assert pieces.dtype == np.int64
    assert pieces.tolist() == [[24, 25, 26, 27, 28], [2, 3, 4, 5, 6], [22, 23, 24, 24, 24]]
    assert rows.pieces(np.array([3]), np.array([0]), 8).tolist() == [list(range(24, 33))]
    with pytest.raises(IndexError):
        rows.pieces(np.array([4]), np.array([0]), 8)
