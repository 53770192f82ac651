"""The account of tokens: what a place remembers, merges, takes back and writes down."""

import json

import pytest

from raystage.data.place import Cutoff, Place

CONTEXT = 24


def test_nothing_waits_at_the_start() -> None:
    assert Place().tokens_waiting(CONTEXT) == 0
    rows, after = Place().waiting_taken(5, CONTEXT)
    assert (list(rows), after) == ([], Place())


def test_neighbouring_heads_of_one_stage_are_one_span_whatever_the_number_of_steps() -> None:
    place = Place()
    for _ in range(1000):
        place = place.heads_taken(3, 8, CONTEXT)
    for _ in range(1000):
        place = place.heads_taken(2, 16, CONTEXT)
    assert place.waiting == (Cutoff(0, 3000, 8), Cutoff(3000, 2000, 16))
    assert place.cursor == 5000 * CONTEXT
    assert place.tokens_waiting(CONTEXT) == 3000 * 16 + 2000 * 8


def test_whole_rows_leave_nothing_to_wait_and_part_the_spans() -> None:
    place = Place().heads_taken(2, 8, CONTEXT).heads_taken(5, CONTEXT, CONTEXT).heads_taken(1, 8, CONTEXT)
    assert place.waiting == (Cutoff(0, 2, 8), Cutoff(7, 1, 8))


def test_waiting_rows_leave_oldest_first_and_are_told_apart_in_heads_and_tails() -> None:
    place = Place(cursor=6 * CONTEXT, waiting=(Cutoff(0, 3, 8), Cutoff(3, 2, 16)))
    rows, after = place.waiting_taken(4, CONTEXT)
    assert list(rows) == [0, 1, 2, 3]
    assert after.waiting == (Cutoff(4, 1, 16),)
    assert (after.tokens_recycled, after.tokens_repeated) == (3 * 16 + 8, 3 * 8 + 16)
    assert after.cursor == place.cursor


def test_the_rest_of_a_row_begun_in_segments_waits_or_is_dropped() -> None:
    place = Place(cursor=2 * CONTEXT + 10)
    assert place.started_row_waits(CONTEXT) == Place(cursor=3 * CONTEXT, waiting=(Cutoff(2, 1, 10),))
    assert place.started_row_dropped(CONTEXT) == Place(cursor=3 * CONTEXT, tokens_dropped=14)
    border = Place(cursor=2 * CONTEXT)
    assert border.started_row_waits(CONTEXT) == border.started_row_dropped(CONTEXT) == border


def test_a_rollback_skips_what_was_learned_in_between_and_keeps_the_order() -> None:
    kept = Place(cursor=100)
    lost = Place(cursor=160, tokens_dropped=7)
    assert kept.after_rollback(lost, CONTEXT) == Place(cursor=160, tokens_dropped=7, tokens_skipped=53)
    twice = kept.after_rollback(Place(cursor=200, tokens_dropped=7, tokens_skipped=53), CONTEXT)
    assert twice == Place(cursor=200, tokens_dropped=7, tokens_skipped=93)


def test_after_a_rollback_rows_that_wait_wait_whole_where_their_heads_were_unlearned() -> None:
    kept = Place(cursor=3 * CONTEXT, waiting=(Cutoff(0, 3, 8),))
    lost = Place(cursor=7 * CONTEXT, waiting=(Cutoff(0, 7, 8),))
    place = kept.after_rollback(lost, CONTEXT)
    assert place == Place(cursor=7 * CONTEXT, waiting=(Cutoff(0, 3, 8), Cutoff(3, 4, 0)))
    begun = Place(cursor=2 * CONTEXT + 5)
    place = begun.after_rollback(Place(cursor=2 * CONTEXT + 9).started_row_waits(CONTEXT), CONTEXT)
    assert place.waiting == (Cutoff(2, 1, 5),)
    assert place.tokens_skipped == 0


def test_a_rollback_unlearns_rows_that_were_recycled() -> None:
    kept = Place(cursor=5 * CONTEXT, waiting=(Cutoff(0, 5, 8),))
    _, lost = kept.waiting_taken(2, CONTEXT)
    place = kept.after_rollback(lost, CONTEXT)
    assert place.waiting == (Cutoff(2, 3, 8),)
    assert (place.tokens_recycled, place.tokens_repeated, place.tokens_skipped) == (0, 0, 2 * 16)


def test_a_rollback_to_a_later_place_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="earlier"):
        Place(cursor=10).after_rollback(Place(cursor=9), CONTEXT)


def test_json_keeps_everything() -> None:
    place = Place(7 * CONTEXT, (Cutoff(0, 3, 8), Cutoff(5, 1, 0)), 1, 2, 3, 4)
    assert Place.from_json(json.loads(json.dumps(place.to_json()))) == place
    _, taken = place.waiting_taken(2, CONTEXT)
    assert Place.from_json(json.loads(json.dumps(taken.to_json()))) == taken
