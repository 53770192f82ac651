"""Pacing in real runs: free choices, batches, rules for the length, the probe signal, recycling, the end by slope; accounts add up."""

import math
import shutil
from fractions import Fraction
from pathlib import Path

import pytest

from raystage.config import Config
from raystage.report.account import account_of
from raystage.runtime.replay_run import compare_run
from raystage.tracking.records import RunRecords
from raystage.training.checkpoint import CheckpointStore
from tests.training.made_run import configure, losses, train_here

# short spans and a threshold that a short noisy stage passes; sizes as in made_run
SLOPE = [
    "pacing.rule=slope",
    "pacing.at=null",
    "pacing.confidence=0.5",
    "pacing.settle_tokens=0",
    "pacing.min_dwell_tokens=2560",
    "pacing.min_tokens_per_parameter=0",
    "pacing.thresholds={length: -3.0, depth: -3.0, width: -3.0, both: -3.0, batch: -3.0}",
    "training.schedule={kind: constant, warmup_steps: 0}",
    "growth.rewarm_steps=0",
]
FLAT = ["pacing.depths=null", "pacing.widths=null"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pacing")


def run(config: Config) -> RunRecords:
    """Trains, and checks what must hold in every run: whole records, and an account that adds up."""
    records = train_here(config)
    assert [r["step"] for r in records.train] == list(range(1, len(records.train) + 1))
    for record in records.train:
        account = account_of(record)
        assert account.passed == account.trained + account.dropped + account.waiting + account.skipped
        assert min(vars(account).values()) >= 0
    replayed = compare_run(Path(config.storage) / config.name)
    assert replayed.difference is None
    assert replayed.n_same == len(records.decisions)
    return records


def test_free_choices_take_every_change_once_and_each_by_its_own_slope(folder: Path) -> None:
    overrides = ["pacing.order=free", "pacing.batches=[128, 256]", "training.duration=300 steps"]
    records = run(configure(folder, ["name=free", *SLOPE, *overrides]))
    assert sorted(d["kind"] for d in records.decisions) == ["grow_depth", "grow_width", "raise_batch", "raise_seq_len"]
    for decision in records.decisions:
        assert decision["trigger"] == "slope"
        assert decision["slope"] > decision["threshold"]
        assert decision["slope_se"] > 0
    last = records.train[-1]
    assert (last["seq_len_tokens"], last["n_layer"], last["d_model"], last["batch_tokens"]) == (32, 2, 32, 256)


def test_a_batch_that_rises_with_the_length_and_its_rate(folder: Path) -> None:
    overrides = [*FLAT, "pacing.batches=[64, 256]", "pacing.order=[length+batch]", "pacing.at=[0.5]", "training.batch_lr=sqrt"]
    records = run(configure(folder, ["name=ramp", *overrides, "training.schedule={kind: constant, warmup_steps: 0}"]))
    assert [d["kind"] for d in records.decisions] == ["raise_seq_len+raise_batch"]
    first, last = records.train[0], records.train[-1]
    assert [(r["seq_len_tokens"], r["batch_tokens"]) for r in (first, last)] == [(16, 64), (32, 256)]
    assert last["lr"] == pytest.approx(2 * first["lr"])
    assert records.train[1]["tokens_seen"] - first["tokens_seen"] == 64


@pytest.mark.parametrize("duration", [1, 7, 40])
def test_a_linear_length_at_every_step(folder: Path, duration: int) -> None:
    overrides = ["pacing.rule=linear", "pacing.at=null", *FLAT, "pacing.lengths=[8, 32]"]
    warmup = "pacing.warmup={fraction: 0.5, step_tokens: 8}"
    records = run(configure(folder, [f"name=linear-{duration}", *overrides, warmup, f"training.duration={duration} steps"]))
    wanted = [min(32, 8 + 8 * math.floor(Fraction(24 * step * 2, duration) / 8)) for step in range(duration)]
    assert [r["seq_len_tokens"] for r in records.train] == wanted
    assert {d["trigger"] for d in records.decisions} <= {"schedule"}


def test_a_rule_for_the_length_beside_growth_by_slope(folder: Path) -> None:
    overrides = ["pacing.rule=two_stage", "pacing.warmup.fraction=0.25", "training.duration=200 steps"]
    records = run(configure(folder, ["name=beside", *SLOPE[1:], *overrides]))
    assert [(d["kind"], d["trigger"]) for d in records.decisions if d["kind"] == "raise_seq_len"] == [("raise_seq_len", "schedule")]
    assert next(d["effective_step"] for d in records.decisions if d["kind"] == "raise_seq_len") == 51
    assert [d["kind"] for d in records.decisions if d["trigger"] == "slope"] == ["grow_depth", "grow_width"]


@pytest.mark.parametrize("rule", ["tokens", "sequences"])
def test_recycled_rows_are_trained_whole_and_nothing_waits_in_the_end(folder: Path, rule: str) -> None:
    overrides = [*FLAT, "pacing.at=[0.4]", "pacing.cutting=recycle", f"training.batch_rule={rule}"]
    records = run(configure(folder, [f"name=recycle-{rule}", *overrides, "training.duration=90 steps"]))
    switch = next(r for r in records.train if r["stage"] == 1)["step"]
    before, last = records.train[switch - 2], records.train[-1]
    assert before["tokens_waiting"] == before["tokens_seen"] > 0
    assert before["tokens_recycled"] == 0
    assert last["tokens_recycled"] + last["tokens_waiting"] == before["tokens_waiting"]
    assert last["tokens_dropped"] == 0
    if rule == "sequences":
        assert last["tokens_waiting"] == 0
        assert account_of(last).passed > account_of(before).passed, "fresh rows come after those that waited"


def test_the_probe_signal_is_paired_by_position_and_decides(folder: Path) -> None:
    overrides = ["pacing.signal=probe", "pacing.probe_tokens=128", *FLAT, "training.duration=120 steps"]
    records = run(configure(folder, ["name=probe", *SLOPE, *overrides]))
    probed = [r for r in records.train if r["probe_loss"] is not None]
    assert [r["step"] for r in probed] == list(range(5, 121, 5))
    assert [len(r["probe_by_position"]) for r in (probed[0], probed[-1])] == [2, 3]
    first = probed[0]
    assert first["probe_loss"] == pytest.approx(sum(first["probe_by_position"]) / 2)
    assert [d["trigger"] for d in records.decisions] == ["slope"]
    # positions below 16 see the same tokens before and after the change
    change = records.decisions[0]["effective_step"]
    at = next(i for i, r in enumerate(probed) if r["step"] > change)
    before, after = (sum(r["probe_by_position"][:2]) for r in (probed[at - 1], probed[at]))
    assert after == pytest.approx(before, rel=0.1)


def test_the_end_by_slope_leaves_the_decay_of_the_rate(folder: Path) -> None:
    overrides = ["training.duration=400 steps", "pacing.thresholds.stop=-3.0", "pacing.lengths=null", *FLAT]
    schedule = "training.schedule={kind: wsd, warmup_steps: 0, decay_fraction: 0.5, floor_fraction: 0.1}"
    records = run(configure(folder, ["name=stop", *SLOPE, *overrides, schedule]))
    (stop,) = records.decisions
    assert (stop["kind"], stop["trigger"]) == ("stop", "slope")
    ended, decided = records.train[-1]["step"], stop["effective_step"] - 1
    assert ended == pytest.approx(2 * decided, abs=2)
    assert records.train[-1]["lr"] < 0.15 * records.train[decided - 1]["lr"]
    assert len(records.ends) == 1


def test_a_run_that_the_slope_has_ended_goes_on_under_a_longer_duration_until_the_slope_says_so_again(folder: Path) -> None:
    overrides = ["pacing.thresholds.stop=-3.0", "pacing.lengths=null", *FLAT]
    ended = run(configure(folder, ["name=stop-longer", *SLOPE, *overrides, "training.duration=400 steps"]))
    (stop,) = ended.decisions
    longer = run(configure(folder, ["name=stop-longer", *SLOPE, *overrides, "training.duration=430 steps"]))
    again = longer.decisions[1]
    assert (again["kind"], again["trigger"]) == ("stop", "slope")
    assert longer.train[-1]["step"] == again["effective_step"] - 1 > ended.train[-1]["step"] == stop["effective_step"] - 1
    assert again["duration_share"] == pytest.approx(longer.train[-1]["step"] / 430), "of this duration; the end before it is forgotten"


def test_a_stop_by_slope_is_made_once_by_a_run_that_dies_right_after_it(folder: Path) -> None:
    overrides = ["training.duration=400 steps", "pacing.thresholds.stop=-3.0", "pacing.lengths=null", *FLAT]
    overrides += ["training.schedule={kind: wsd, warmup_steps: 0, decay_fraction: 0.5}", "checkpoint={every_steps: 1000, keep_last: 9}"]
    config = configure(folder, ["name=stop-dies", *SLOPE, *overrides])
    whole = run(config)
    (end,) = (folder / "runs" / "stop-dies" / "checkpoints").glob("*-end")
    shutil.rmtree(end)
    left = CheckpointStore(folder / "runs" / "stop-dies").latest_good()
    assert left is not None
    assert left.manifest.counters.step == whole.decisions[0]["effective_step"] - 1
    again = run(config)
    assert [(d["kind"], d["effective_step"]) for d in again.decisions] == [(d["kind"], d["effective_step"]) for d in whole.decisions]
    assert losses(again) == losses(whole)


def test_a_preflight_leaves_no_trace(folder: Path) -> None:
    plain, rehearsed = (
        train_here(configure(folder, [f"name=preflight-{on}", f"training.preflight={on}", "model.dropout=0.1"])) for on in ("false", "true")
    )
    assert losses(plain) == losses(rehearsed)
