"""Plans: the order of changes and the shape of each stage."""

import pytest

from raystage.pacing.stage import Change, ChangeKind, Shape, make_plan


def test_without_an_order_lengths_come_first_then_depths_then_widths() -> None:
    plan = make_plan([32, 64, 128], [1, 2], [32, 64])
    assert plan.start == Shape(32, 1, 32)
    assert plan.changes == (Change(seq_len_tokens=64), Change(seq_len_tokens=128), Change(n_layer=2), Change(d_model=64))
    assert plan.shapes() == [Shape(32, 1, 32), Shape(64, 1, 32), Shape(128, 1, 32), Shape(128, 2, 32), Shape(128, 2, 64)]


def test_an_order_is_kept() -> None:
    plan = make_plan([32, 64, 128], [1, 2], [32, 64], ["width", "length", "depth", "length"])
    assert plan.changes == (Change(d_model=64), Change(seq_len_tokens=64), Change(n_layer=2), Change(seq_len_tokens=128))
    assert plan.shapes()[-1] == Shape(128, 2, 64)


def test_both_takes_the_next_depth_and_the_next_width_at_once() -> None:
    plan = make_plan([32], [0, 1, 2], [32, 64], ["depth", "both"])
    assert [change.kind for change in plan.changes] == ["depth", "both"]
    assert plan.shapes() == [Shape(32, 0, 32), Shape(32, 1, 32), Shape(32, 2, 64)]
    assert [str(change) for change in plan.changes] == ["depth 1", "depth 2 and width 64"]


def test_one_value_each_is_a_plan_without_changes() -> None:
    plan = make_plan([128], [2], [64])
    assert (plan.changes, plan.shapes()) == ((), [Shape(128, 2, 64)])


@pytest.mark.parametrize("order", [[], ["length"], ["length", "length", "depth", "depth"], ["length", "length", "depth", "width"]])
def test_an_order_that_misses_or_repeats_a_change_is_refused(order: list[ChangeKind]) -> None:
    with pytest.raises(ValueError, match="does not take each value exactly once"):
        make_plan([32, 64, 128], [1, 2], [64], order)
