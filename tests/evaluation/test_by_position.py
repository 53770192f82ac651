"""Loss by position: the same rows one at a time by transformers, and the ranges that are printed."""

from pathlib import Path

import numpy as np
import pytest

from raystage.data.rows import Rows
from raystage.evaluation.by_position import LossByPosition, loss_by_position
from raystage.evaluation.perplexity import text_tokens
from tests.evaluation.made_model import made_folder, made_text, opened, plain_log_probabilities


def test_each_position_is_the_mean_over_the_rows(tmp_path: Path) -> None:
    model = opened(made_folder(tmp_path))
    rows = Rows(text_tokens(model, made_text(60)), 12)[:]
    found = loss_by_position(model, rows, batch_tokens=30)
    expected = np.zeros(12)
    for row in rows.tolist():
        expected -= plain_log_probabilities(tmp_path, row[:-1])[np.arange(12), row[1:]]
    assert found.n_rows == len(rows) > 3
    np.testing.assert_allclose(found.losses, expected / len(rows), rtol=1e-5)
    assert found.loss == pytest.approx(expected.sum() / len(rows) / 12, rel=1e-5)


def test_ranges_double_and_weigh_each_position_alike() -> None:
    found = LossByPosition(np.arange(20.0), n_rows=2)
    assert found.ranges() == [(0, 8, 3.5 / 2), (8, 16, 11.5 / 2), (16, 20, 17.5 / 2)]
