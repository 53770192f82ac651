"""Batches step after step: the same whatever was read ahead."""

import dataclasses
import queue
import random
import threading
from typing import Any

import numpy as np
import pytest
import torch

import raystage.data.reader as reader_module
from raystage.data.batch import Batch, read_batch
from raystage.data.order import RowOrder
from raystage.data.place import Place
from raystage.data.reader import Reader, Wanted
from raystage.data.rows import Rows
from raystage.data.step_cut import Cut, Cutting, cut, rank_slice

CONTEXT, N_ROWS, SEED = 24, 40, 3
MODES: list[Cutting] = ["segment", "truncate", "recycle"]


def rows() -> Rows:
    return Rows(np.arange(N_ROWS * CONTEXT + 1, dtype=np.uint16), CONTEXT)


@dataclasses.dataclass
class Watched:
    """Rows, and of each batch that is read of them: whether in the reader's thread, and its first position."""

    rows: Rows
    reads: queue.SimpleQueue[tuple[bool, int]]

    def next(self, n: int) -> list[tuple[bool, int]]:
        return [self.reads.get(timeout=60) for _ in range(n)]


@pytest.mark.parametrize("cutting", MODES)
@pytest.mark.parametrize("block_tokens", [1, 64, 256])
def test_batches_are_those_of_the_order_through_changes_of_stage_and_back_to_an_earlier_place(
    cutting: Cutting, block_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "BLOCK_TOKENS", block_tokens)
    chances, reader, order = random.Random(1), Reader(rows(), SEED, cutting), RowOrder(N_ROWS, SEED)
    places, wanted = [Place()], Wanted(4, 8, 1, 2)
    for _ in range(60):
        if chances.random() < 0.3:  # another stage
            wanted = Wanted(chances.randint(2, 5), chances.choice([8, 12, 16, 24]), 1, 2)
        place = chances.choice(places) if chances.random() < 0.2 else places[-1]
        found, batch = reader.read(place, wanted)
        expected = cut(place, wanted.n_sequences, wanted.seq_len_tokens, CONTEXT, cutting)
        mine = rank_slice(wanted.n_sequences, 1, 2)
        alone = read_batch(rows(), order, expected, mine, wanted.seq_len_tokens)
        assert torch.equal(batch.inputs_BL, alone.inputs_BL)
        assert torch.equal(batch.targets_BL, alone.targets_BL)
        assert found.place_after == expected.place_after
        places.append(found.place_after)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched(rows(), queue.SimpleQueue())

    def noted(rows: Rows, order: RowOrder, cut_: Cut, chosen: slice, seq_len_tokens: int) -> Batch:
        if rows is watched.rows:  # a reader of the test before may still be reading ahead
            watched.reads.put((threading.current_thread().name.startswith("reader"), int(cut_.position[0])))
        return read_batch(rows, order, cut_, chosen, seq_len_tokens)

    monkeypatch.setattr(reader_module, "read_batch", noted)
    return watched


def test_the_next_steps_batch_is_read_while_this_one_is_computed_and_once(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "BLOCK_TOKENS", 2 * 4 * 8 - 1)
    reader, place, wanted = Reader(watched.rows, SEED, "truncate"), Place(), Wanted(4, 8, 0, 1)
    for step in range(5):
        place = reader.read(place, wanted)[0].place_after
        if step == 0:
            assert watched.next(1) == [(False, 0)]
        assert watched.next(1) == [(True, 4 * (step + 1))]
    reader.read(place, Wanted(4, 12, 0, 1))
    assert watched.next(1) == [(False, 20)], "another stage wants the same rows, longer"


@pytest.mark.parametrize("n_shares", [1, 2])
def test_small_steps_are_read_in_blocks_of_so_many_tokens_of_a_rank(
    n_shares: int, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "BLOCK_TOKENS", 3 * 4 * 8 // n_shares)
    reader, place, wanted = Reader(watched.rows, SEED, "truncate"), Place(), Wanted(4, 8, 0, n_shares)

    def step() -> None:
        nonlocal place
        place = reader.read(place, wanted)[0].place_after

    step()
    assert watched.next(3) == [(False, 0), (True, 4), (True, 8)], "twice as many as the first one alone"
    step()
    assert watched.next(3) == [(True, 12), (True, 16), (True, 20)], "no more, while those before them are used"
    step()
    with pytest.raises(queue.Empty):
        watched.reads.get(timeout=0.2)
    step()
    assert watched.next(3) == [(True, 24), (True, 28), (True, 32)]


@pytest.mark.parametrize("block_steps", [1, 3])
def test_an_error_ahead_is_raised_at_the_step_that_wants_the_batch(block_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(rows: Rows, order: RowOrder, cut_: Cut, *others: Any) -> Batch:
        if cut_.position[0] == 8:
            raise OSError("the disk is gone")
        return read_batch(rows, order, cut_, *others)

    monkeypatch.setattr(reader_module, "BLOCK_TOKENS", block_steps * 4 * 8)
    monkeypatch.setattr(reader_module, "read_batch", spoiled)
    reader, place, wanted = Reader(rows(), SEED, "truncate"), Place(), Wanted(4, 8, 0, 1)
    for _ in range(2):
        place = reader.read(place, wanted)[0].place_after
    with pytest.raises(OSError, match="the disk is gone"):
        reader.read(place, wanted)
