"""Plans: tracks of changes, what comes next in each, combined changes, and the shape of each stage."""

import pytest

from raystage.pacing.stage import Change, Kind, Plan, Shape, make_track, take

START = Shape(32, 1, 32, 4096)
VALUES = {"length": [64, 128], "depth": [2], "width": [64]}


def test_an_order_is_kept() -> None:
    track = make_track(VALUES, ["width", "length", "depth", "length"])
    assert track == (Change(d_model=64), Change(seq_len_tokens=64), Change(n_layer=2), Change(seq_len_tokens=128))
    assert Plan(START, (track,)).shapes()[-1] == Shape(128, 2, 64, 4096)


def test_shares_of_the_duration_stand_by_their_changes() -> None:
    assert [c.at for c in make_track({"length": [64, 128]}, ["length", "length"], (0.25, 0.5))] == [0.25, 0.5]
    assert [c.at for c in make_track({"length": [64, 128]}, ["length", "length"])] == [None, None]


def test_joined_kinds_take_the_next_value_of_each_at_once() -> None:
    track = make_track({"depth": [1, 2], "width": [64]}, ["depth", "depth+width"])
    assert [change.kind for change in track] == ["depth", "depth+width"]
    assert Plan(START, (track,)).shapes() == [START, Shape(32, 1, 32, 4096), Shape(32, 2, 64, 4096)]
    assert [str(change) for change in track] == ["depth 1", "depth 2 and width 64"]


@pytest.mark.parametrize(
    ("change", "kind", "recorded", "grows"),
    [
        (Change(seq_len_tokens=64), "length", "raise_seq_len", False),
        (Change(n_layer=2), "depth", "grow_depth", True),
        (Change(d_model=64), "width", "grow_width", True),
        (Change(batch_tokens=8192), "batch", "raise_batch", False),
        (Change(n_layer=2, d_model=64), "depth+width", "grow_both", True),
        (Change(seq_len_tokens=64, batch_tokens=8192), "length+batch", "raise_seq_len+raise_batch", False),
        (Change(seq_len_tokens=64, d_model=64), "length+width", "raise_seq_len+grow_width", True),
        (Change(n_layer=0), "depth", "grow_depth", True),
    ],
)
def test_a_change_says_what_it_is(change: Change, kind: Kind, recorded: str, grows: bool) -> None:
    assert (change.kind, change.record_kind, change.grows) == (kind, recorded, grows)


@pytest.mark.parametrize("order", [[], ["length"], ["length", "length", "depth", "depth"], ["length", "length", "depth", "depth+width"]])
def test_an_order_that_misses_or_repeats_a_change_is_refused(order: list[Kind]) -> None:
    with pytest.raises(ValueError, match="does not take each value exactly once"):
        make_track(VALUES, order)


# -- tracks

LENGTHS = make_track({"length": [64, 128]}, ["length", "length"])
GROWTH = make_track({"depth": [2], "width": [64]}, ["depth", "width"])
PLAN = Plan(START, (LENGTHS, GROWTH))


def test_the_heads_of_tracks_compete_and_each_moves_by_itself() -> None:
    assert PLAN.untouched == (0, 0)
    assert PLAN.heads((0, 0)) == [(0, Change(seq_len_tokens=64)), (1, Change(n_layer=2))]
    assert PLAN.heads(take((0, 0), 1)) == [(0, Change(seq_len_tokens=64)), (1, Change(d_model=64))]
    assert PLAN.heads((2, 1)) == [(1, Change(d_model=64))]
    assert PLAN.heads((2, 2)) == []


def test_a_plan_without_changes() -> None:
    plan = Plan(START, ())
    assert (plan.untouched, plan.changes, plan.shapes(), plan.heads(())) == ((), (), [START], [])


def test_shapes_take_the_tracks_one_after_the_other() -> None:
    assert PLAN.shapes() == [
        START,
        Shape(64, 1, 32, 4096),
        Shape(128, 1, 32, 4096),
        Shape(128, 2, 32, 4096),
        Shape(128, 2, 64, 4096),
    ]


@pytest.mark.parametrize("taken", [(0, 0), (1, 0), (0, 1), (1, 2), (2, 2)])
def test_the_changes_behind_a_shape_are_found_again(taken: tuple[int, int]) -> None:
    shape = START
    for track, n in zip(PLAN.tracks, taken, strict=True):
        for change in track[:n]:
            shape = shape.after(change)
    assert PLAN.taken_at(shape) == taken


@pytest.mark.parametrize("shape", [Shape(96, 1, 32, 4096), Shape(64, 1, 32, 8192), Shape(16, 1, 32, 4096), Shape(64, 3, 32, 4096)])
def test_a_shape_of_no_stage_is_none(shape: Shape) -> None:
    assert PLAN.taken_at(shape) is None
