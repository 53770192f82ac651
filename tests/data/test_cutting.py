"""Cutting for loops of people's own: tensors and dict batches, every token accounted for."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raystage.data.cutting import segment, truncate

PAD, END = 0, 999


def made_batch(n_tokens: list[int], width: int) -> dict[str, Any]:
    """Rows of that many real tokens, each ended by END and padded on the right."""
    ids = torch.full((len(n_tokens), width), PAD)
    for row, n in enumerate(n_tokens):
        ids[row, :n] = torch.arange(1, n + 1) + 100 * row
        ids[row, n - 1] = END
    mask = (torch.arange(width) < torch.tensor(n_tokens)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    width = draw(st.integers(1, 20))
    return made_batch(draw(st.lists(st.integers(1, width), min_size=1, max_size=4)), width)


def real(batch: dict[str, Any], key: str) -> Counter[int]:
    return Counter(batch[key][batch["attention_mask"] == 1].tolist())


@settings(deadline=None)
@given(batch=batches(), length=st.integers(1, 24))
def test_segment_keeps_every_token_and_adds_only_marked_padding(batch: dict[str, Any], length: int) -> None:
    before = {key: value.clone() for key, value in batch.items()}
    cut = segment(batch, length)
    n_rows, width = batch["input_ids"].shape
    assert all(value.shape == (n_rows * -(-width // length), min(length, width)) for value in cut.values())
    for key in ("input_ids", "labels"):
        assert real(cut, key) == real(batch, key)
    assert set(cut["labels"][cut["attention_mask"] == 0].tolist()) <= {-100}
    rows = cut["input_ids"].reshape(n_rows, -1)[:, :width]
    assert torch.equal(rows, batch["input_ids"])
    assert all(torch.equal(batch[key], value) for key, value in before.items())


@settings(deadline=None)
@given(batch=batches(), length=st.integers(1, 24), keep_end_token=st.booleans())
def test_truncate_keeps_heads_and_the_end_if_asked(batch: dict[str, Any], length: int, keep_end_token: bool) -> None:
    before = {key: value.clone() for key, value in batch.items()}
    cut = truncate(batch, length, keep_end_token)
    for row, n in enumerate(batch["attention_mask"].sum(1).tolist()):
        kept = min(n, length)
        expected = batch["input_ids"][row, :kept].clone()
        if keep_end_token:
            expected[-1] = END
        assert torch.equal(cut["input_ids"][row, :kept], expected)
        assert torch.equal(cut["labels"][row, :kept], expected)
        assert cut["attention_mask"][row].sum() == kept
        assert (cut["labels"][row, kept:] == -100).all()
    assert cut["input_ids"].shape == (len(batch["input_ids"]), min(length, batch["input_ids"].shape[1]))
    assert all(torch.equal(batch[key], value) for key, value in before.items())


def test_bare_tensors() -> None:
    ids = torch.arange(12).reshape(2, 6)
    assert segment(ids, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert truncate(ids, 2).tolist() == [[0, 1], [6, 7]]
    assert truncate(ids, 2, keep_end_token=True).tolist() == [[0, 5], [6, 11]]
    assert ids.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    for length in (6, 7):
        assert torch.equal(segment(ids, length), ids)
        assert torch.equal(truncate(ids, length), ids)


def test_a_sequence_without_a_real_token_is_cut_too() -> None:
    batch = made_batch([4, 1], 4)
    batch["attention_mask"][1] = 0
    assert truncate(batch, 2, keep_end_token=True)["input_ids"].tolist() == [[1, END], [END, PAD]]


def test_what_belongs_to_tokens_is_cut_and_what_belongs_to_rows_is_repeated() -> None:
    batch = {
        "input_ids": torch.arange(8).reshape(2, 4),
        "embeds": torch.arange(16.0).reshape(2, 4, 2),
        "weight": torch.tensor([5.0, 6.0]),
        "n": torch.tensor(8),
        "name": ["a", "b"],
    }
    cut = segment(batch, 2)
    assert cut["embeds"].shape == (4, 2, 2)
    assert torch.equal(cut["embeds"].reshape(2, 4, 2), batch["embeds"])  # type: ignore[arg-type]
    assert cut["weight"].tolist() == [5, 5, 6, 6]
    assert (cut["n"], cut["name"]) == (batch["n"], ["a", "b"])
    head = truncate(batch, 2)
    assert (head["embeds"].shape, head["weight"].tolist(), head["name"]) == ((2, 2, 2), [5, 6], ["a", "b"])


def test_padding_needs_something_that_marks_it() -> None:
    ids = torch.arange(6).reshape(1, 6)
    with pytest.raises(ValueError, match=r"does not divide the 6 tokens.*give a dict"):
        segment(ids, 4)
    with pytest.raises(ValueError, match=r"does not divide the 6 tokens.*add an attention_mask"):
        segment({"input_ids": ids}, 4)
    assert segment({"input_ids": ids, "labels": ids}, 4)["labels"].tolist() == [[0, 1, 2, 3], [4, 5, -100, -100]]


_IDS = torch.ones(2, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("batch", "length", "message"),
    [
        (_IDS, 0, "length=0"),
        (_IDS, 2.0, "length=2.0"),
        (_IDS, True, "length=True"),
        (_IDS[0], 2, r"shape \(4,\)"),
        ({"labels": _IDS}, 2, r"no tensor input_ids, only \['labels'\]"),
        ({"input_ids": _IDS, "attention_mask": torch.ones(2, 1, 4, 4)}, 2, r"attention_mask is not a tensor of shape \(2, 4\)"),
        ({"input_ids": _IDS, "labels": _IDS[:, :3]}, 2, "labels is not a tensor"),
    ],
)
def test_what_cannot_be_cut_is_said(batch: Tensor | dict[str, Tensor], length: Any, message: str) -> None:
    for function in (segment, truncate):
        with pytest.raises(ValueError, match=message):
            function(batch, length)


def test_truncation_refuses_padding_on_the_left_and_ends_it_cannot_keep() -> None:
    left = {"input_ids": _IDS, "attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])}
    with pytest.raises(ValueError, match="pad on the right, or segment"):
        truncate(left, 2)
    assert segment(left, 2)["attention_mask"].tolist() == [[0, 1], [1, 1], [1, 1], [1, 1]]
    with pytest.raises(ValueError, match="shift_labels"):
        truncate({"input_ids": _IDS, "shift_labels": _IDS}, 2, keep_end_token=True)
