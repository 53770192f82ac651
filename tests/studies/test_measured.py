"""A study's clock, where a run has come to a loss, and the gradients of each sequence length, on made records."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystage.report.digest import Digest, digest_of
from raystage.report.run import Run, load_run
from raystage.studies.measured import Measured, lengths_of, measured, reached, seconds_by_shape, signals_between


def made(folder: Path, step_seconds: Sequence[tuple[int, float]], val: Sequence[tuple[int, float]] = ()) -> tuple[Run, Digest]:
    """A run of steps of (sequence length, seconds); validations of (step, loss)."""
    lines: list[dict[str, Any]] = [
        {"kind": "start", "step": 0, "tokens_seen": 0, "flops": 0, "time_s": 0.0, "world_size": 1, "device": "cpu"}
    ]
    time_s, stage, before = 0.0, -1, 0
    losses = dict(val)
    for step, (length, seconds) in enumerate(step_seconds, 1):
        time_s, stage, before = time_s + seconds, stage + (length != before), length
        clocks = {"step": step, "tokens_seen": 100 * step, "flops": 1e3 * step, "time_s": time_s, "stage": stage}
        shape = {"seq_len_tokens": length, "batch_tokens": 100, "n_layer": 1, "d_model": 8, "n_parameters": 1000}
        signals = {"loss": 5.0, "grad_norm": float(step % 3), "second_moment": 1.0 / step, "tokens_per_s": 100 / seconds, "mfu": None}
        lines.append({"kind": "train", "world_size": 1, "attempt": 1, **clocks, **shape, **signals})
        if step in losses:
            lines.append({"kind": "val", **clocks, "val_loss": losses[step], "stage_end": False})
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(folder, folder.name)
    return run, digest_of(run)


def on_one_clock(*runs: tuple[Run, Digest]) -> list[Measured]:
    return [measured(*run, seconds_by_shape(runs)) for run in runs]


def test_a_step_counts_as_the_least_median_of_its_shape(tmp_path: Path) -> None:
    slow = made(tmp_path / "slow", [(32, 2.0)] * 20 + [(64, 9.0)] + [(64, 3.0)] * 20)
    quick = made(tmp_path / "quick", [(64, 1.0)] * 20 + [(64, 60.0)] + [(64, 1.0)] * 20)
    short = made(tmp_path / "short", [(64, 0.5)] * 4)
    by_slow, by_quick, by_short = on_one_clock(slow, quick, short)
    assert by_slow.seconds[[0, 19, 20, 40]] == pytest.approx([2.0, 40.0, 41.0, 61.0])
    assert by_quick.seconds[-1] == pytest.approx(41.0), "a pause counts as a step"
    assert by_short.seconds[-1] == pytest.approx(4.0), "a few steps' median does not set the clock"


def test_a_loss_is_reached_at_the_first_validation_at_or_below_it(tmp_path: Path) -> None:
    (run,) = on_one_clock(made(tmp_path / "run", [(32, 2.0)] * 40, val=[(10, 4.0), (20, 3.0), (30, 3.5), (40, 2.0)]))
    there = reached(run, 3.0)
    assert there is not None
    assert (there.flops, there.seconds) == (2e4, pytest.approx(40.0))
    assert reached(run, 1.9) is None
    assert run.final_loss == 2.0


def test_gradients_of_each_length_are_those_of_its_steps(tmp_path: Path) -> None:
    (run,) = on_one_clock(made(tmp_path / "run", [(32, 1.0)] * 9 + [(64, 1.0)] * 31))
    assert lengths_of(run) == {32: (0.0, 900.0), 64: (900.0, 4000.0)}
    signals = signals_between(run, (0.0, 900.0))
    assert signals is not None
    assert signals.grad_norm_variance == pytest.approx(np.var([0, 1, 2] * 3, ddof=1))
    assert signals.second_moment == 1.0
    later = signals_between(run, (900.0, 4000.0))
    assert later is not None
    assert later.second_moment == pytest.approx(0.1)
    assert signals_between(run, (0.0, 100.0)) is None
