"""A study's clock, where a run has come to a loss, and the gradients of each sequence length, on made records."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystage.report.digest import Digest, digest_of
from raystage.report.run import Run, load_run
from raystage.studies.measured import Kind, Measured, lengths_of, measured, reached, seconds_by_shape, signals_between

NOTHING = {"tokens_seen": 0.0, "flops": 0.0}


def made(
    folder: Path, step_seconds: Sequence[tuple[int, float]], val: Sequence[tuple[int, float]] = (), begun: Mapping[str, float] = NOTHING
) -> tuple[Run, Digest]:
    """A run of steps of (sequence length, seconds); validations of (step, loss). `begun`: by the run whose state it has taken over."""
    lines: list[dict[str, Any]] = [{"kind": "start", "step": 0, **begun, "time_s": 0.0, "world_size": 1, "device": "cpu"}]
    time_s, stage, before = 0.0, -1, 0
    losses = dict(val)
    for step, (length, seconds) in enumerate(step_seconds, 1):
        time_s, stage, before = time_s + seconds, stage + (length != before), length
        tokens, flops = begun["tokens_seen"] + 100 * step, begun["flops"] + 1e3 * step
        clocks = {"step": step, "tokens_seen": tokens, "flops": flops, "time_s": time_s, "stage": stage}
        shape = {"seq_len_tokens": length, "batch_tokens": 100, "n_layer": 1, "d_model": 8, "n_parameters": 1000}
        signals = {"loss": 5.0, "grad_norm": float(step % 3), "second_moment": 1.0 / step, "tokens_per_s": 100 / seconds, "mfu": None}
        lines.append({"kind": "train", "world_size": 1, "attempt": 1, **clocks, **shape, **signals})
        if step in losses:
            lines.append({"kind": "val", **clocks, "val_loss": losses[step], "stage_end": False})
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(folder, folder.name)
    return run, digest_of(run)


def on_one_clock(*runs: tuple[Run, Digest], kinds: Sequence[Kind] | None = None) -> list[Measured]:
    told = [(*run, kind) for run, kind in zip(runs, kinds or [()] * len(runs), strict=True)]
    return [measured(*each, seconds_by_shape(told)) for each in told]


def test_a_step_counts_as_what_one_in_fifty_of_its_shape_is_faster_than(tmp_path: Path) -> None:
    slow = made(tmp_path / "slow", [(32, 2.0)] * 20 + [(64, 9.0)] + [(64, 3.0)] * 20)
    quick = made(tmp_path / "quick", [(64, 0.1)] + [(64, 1.0)] * 60 + [(64, 60.0)] + [(64, 1.0)] * 20)
    by_slow, by_quick = on_one_clock(slow, quick)
    assert by_slow.seconds[[0, 19, 20, 40]] == pytest.approx([2.0, 40.0, 41.0, 61.0])
    assert by_quick.seconds[-1] == pytest.approx(82.0), "neither a pause nor the one fastest step sets the clock"


def test_what_an_arm_changes_beside_its_plan_has_a_clock_of_its_own(tmp_path: Path) -> None:
    usual = made(tmp_path / "usual", [(64, 1.0)] * 50)
    dearer = made(tmp_path / "dearer", [(64, 1.3)] * 50)
    first, second = on_one_clock(usual, dearer, kinds=[(), ("training.optimizer.clip_ratio=0.01",)])
    assert second.seconds[-1] / first.seconds[-1] == pytest.approx(1.3)


def test_a_run_that_goes_on_from_anothers_state_counts_its_own(tmp_path: Path) -> None:
    begun = {"tokens_seen": 5000, "flops": 5e4}
    (run,) = on_one_clock(made(tmp_path / "run", [(32, 2.0)] * 40, val=[(10, 4.0), (20, 3.0)], begun=begun))
    there = reached(run, 3.0)
    assert there is not None
    assert (there.flops, there.seconds) == (2e4, pytest.approx(40.0))
    assert run.seconds[-1] == pytest.approx(80.0)


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


def test_a_length_that_a_rollback_took_up_again_is_its_last_time(tmp_path: Path) -> None:
    (run,) = on_one_clock(made(tmp_path / "run", [(32, 1.0)] * 10 + [(64, 1.0)] * 10 + [(32, 1.0)] * 10 + [(64, 1.0)] * 10))
    assert lengths_of(run) == {32: (2000.0, 3000.0), 64: (3000.0, 4000.0)}
