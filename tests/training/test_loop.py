"""What a run records, the gate of growth, both cutting modes, both batch rules, every duration."""

import math
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import raystage.training.loop as loop_module
from raystage.config import Config
from raystage.devices.cpu import Cpu
from raystage.tracking.records import METRICS_FILE, read_records
from raystage.training import rehearsal
from raystage.training.checkpoint import CheckpointStore
from raystage.training.checkpoint_files import load_tensors
from raystage.training.errors import TrainingError
from raystage.training.ports import Ask
from tests.training.made_run import configure, losses, train_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop")


def test_the_records_tell_the_whole_run(folder: Path) -> None:
    records = train_here(configure(folder, ["name=whole"]))
    assert [r["step"] for r in records.train] == list(range(1, 61))
    assert [r["tokens_seen"] for r in records.train] == [256 * step for step in range(1, 61)]
    assert records.train[-1]["loss"] < records.train[0]["loss"] - 1
    assert [r["flops"] for r in records.train] == sorted(r["flops"] for r in records.train)
    assert [c["step"] for c in records.checks] == list(range(5, 61, 5))
    shapes = [(r["seq_len_tokens"], r["n_layer"], r["d_model"]) for r in records.train]
    assert list(dict.fromkeys(shapes)) == [(16, 1, 16), (32, 1, 16), (32, 2, 16), (32, 2, 32)]
    assert [d["effective_step"] for d in records.decisions] == [13, 25, 37]
    assert [v["step"] for v in records.val if v["stage_end"]] == [12, 24, 36, 60]
    for decision in records.decisions[1:]:
        assert decision["probe_after"] == pytest.approx(decision["probe_before"], rel=1e-5)
    assert len(records.ends) == 1


def test_compute_is_charged_by_every_stages_own_model_and_length(folder: Path) -> None:
    """FLOPs are those of each stage; what the slope's axis counts goes back by rho at each growth."""
    config = configure(folder, ["name=charged"])
    train = train_here(config).train
    at = {(length, layers, width): per_token(config, length, layers, width) for length, layers, width in STAGES}
    spent = 0.0
    for record in train:
        spent += 256 * at[record["seq_len_tokens"], record["n_layer"], record["d_model"]][1]
        assert record["flops"] == pytest.approx(spent, rel=1e-12)
    deeper, wider = (next(r for r in train if r["stage"] == stage) for stage in (2, 3))
    effective = 256 * (config.growth.rho_depth * 24 + 1)
    assert deeper["compute"] == pytest.approx(6 * at[32, 2, 16][0] * effective)
    assert deeper["tokens_per_parameter"] == pytest.approx(effective / at[32, 2, 16][0])
    effective = 256 * (config.growth.rho_width * (config.growth.rho_depth * 24 + 12) + 1)
    assert wider["compute"] == pytest.approx(6 * at[32, 2, 32][0] * effective)


STAGES = [(16, 1, 16), (32, 1, 16), (32, 2, 16), (32, 2, 32)]


def per_token(config: Config, length: int, layers: int, width: int) -> tuple[int, float]:
    """Parameters of the made run's GPT-2 that multiply, and FLOPs of a token, with pencil and paper; 320 entries with their padding."""
    n = 12 * layers * width**2 + 320 * width
    return n, 6.0 * n + 6.0 * layers * width * length


def test_bf16_trains_like_float32_and_keeps_its_state_in_float32(folder: Path) -> None:
    """Autocast rounds products and nothing else: losses are near, never the same, and what is saved is float32."""
    runs = [["name=float32"], ["name=bf16", "training.precision=bf16"], ["name=other-seed", "seed=5"]]
    exact, half, other = (losses(train_here(configure(folder, [*STATIC, *run]))) for run in runs)
    assert half != exact
    assert abs(half[0][1] - exact[0][1]) < 0.01
    far = abs(statistics.fmean(loss for _, loss in other[-10:]) - statistics.fmean(loss for _, loss in exact[-10:]))
    assert abs(statistics.fmean(loss for _, loss in half[-10:]) - statistics.fmean(loss for _, loss in exact[-10:])) < max(far, 0.01)
    stored = CheckpointStore(folder / "runs" / "bf16").latest_good()
    assert stored is not None
    tensors = load_tensors(stored.folder)
    states = [value for fields in tensors.states.values() for value in fields.values()]
    assert {value.dtype for value in (*tensors.parameters.values(), *states)} == {torch.float32}


STATIC = ["pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.rule=constant", "pacing.at=null"]


def test_steps_that_a_validation_waits_for_keep_their_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device that works behind the host's back, which is 0.3 s behind at each validation."""
    monkeypatch.setattr(Cpu, "synchronize", lambda self: time.sleep(0.3))
    train = train_here(configure(folder, ["name=behind", *STATIC, "training.duration=30 steps", "validation.every_steps=20"])).train
    assert all(record["tokens_per_s"] < 5 * 256 / 0.3 for record in train[15:20])


def test_a_checkpoint_is_due_by_the_clock_too(folder: Path) -> None:
    """At each boundary once so many minutes have passed since the last one: with next to none at each, with many never."""
    for minutes, steps in (("1e-9", list(range(5, 61, 5))), ("600", [])):
        config = configure(folder, [f"name=minutes-{minutes}", *STATIC])
        by_time = f"checkpoint={{every_steps: 100000, every_minutes: {minutes}, keep_last: 100}}"
        train_here(configure(folder, [f"name=minutes-{minutes}", *STATIC, by_time]))
        stored = CheckpointStore(Path(config.storage) / f"minutes-{minutes}").all()
        assert [each.manifest.counters.step for each in stored if each.manifest.reason == "interval"] == steps


@pytest.mark.parametrize(("every_s", "heard_at"), [(0.0, list(range(1, 13))), (1e5, [1, 2, 3, 4, 5, 10, 15])])
def test_in_long_steps_a_word_is_heard_between_boundaries(
    folder: Path, every_s: float, heard_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that takes longer than the time between words hears at its end; quick ones, once it is known that they are, at boundaries."""
    monkeypatch.setattr(loop_module, "LISTEN_EVERY_S", every_s)
    heard: list[int] = []

    def asked(step: int, position: int) -> Ask | None:
        heard.append(step)
        return "stop" if step >= 12 else None

    train_here(configure(folder, [f"name=hears-{every_s:g}", *STATIC]), asked=asked)
    assert heard[0] == 0
    assert sorted(set(heard[1:])) == heard_at


def test_memory_that_runs_out_before_step_1_makes_the_micro_batch_smaller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rehearsal.forward_backward

    def limited(machinery: Any, batch: Any, *rest: Any) -> torch.Tensor:
        if batch.inputs_BL.numel() > 70:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return honest(machinery, batch, *rest)

    monkeypatch.setattr(rehearsal, "forward_backward", limited)
    records = train_here(configure(folder, ["name=tight", *STATIC, "training.preflight=true", "training.duration=5 steps"]))
    (found,) = [r for r in read_records(folder / "runs" / "tight" / METRICS_FILE) if r["kind"] == "preflight"]
    assert (found["micro_batch_tokens"], found["micro_batch_tokens_asked"]) == (64, 128)
    assert records.starts[0]["micro_batch_tokens"] == 64


def test_truncation_drops_and_counts_what_segments_keep(folder: Path) -> None:
    cut = train_here(configure(folder, ["name=truncate", "pacing.cutting=truncate"])).train
    first = [r for r in cut if r["stage"] == 0]
    assert first[-1]["tokens_dropped"] == first[-1]["tokens_seen"] > 0
    assert cut[-1]["tokens_dropped"] == first[-1]["tokens_dropped"]


def test_constant_sequences_make_short_stages_cheap(folder: Path) -> None:
    records = train_here(configure(folder, ["name=sequences", "training.batch_rule=sequences"])).train
    assert records[0]["batch_tokens"] == 128
    assert records[-1]["batch_tokens"] == 256
    assert records[20]["tokens_seen"] - records[19]["tokens_seen"] == 256


@pytest.mark.parametrize(("duration", "steps"), [("7 steps", 7), ("2000 tokens", 8), ("1e9 flops", None), ("0.0002 hours", None)])
def test_durations(folder: Path, duration: str, steps: int | None) -> None:
    records = train_here(configure(folder, [f"name={duration.replace(' ', '-')}", f"training.duration={duration}"]))
    last = records.train[-1]
    if steps is not None:
        assert last["step"] == steps
    elif "flops" in duration:
        assert last["flops"] >= 1e9 > records.train[-2]["flops"]
    else:
        assert 0.0002 * 3600 <= records.ends[0]["time_s"] < 20


@pytest.mark.parametrize(("stop_at", "step"), [("40 steps", 40), ("9500 tokens", 38), ("1e9 flops", None)])
def test_a_run_stops_where_it_is_told_and_goes_on_as_if_it_had_not(folder: Path, stop_at: str, step: int | None) -> None:
    """The schedules are those of the whole duration; there is one validation at the stop, also where one was due."""
    alone = train_here(configure(folder, ["name=unstopped"]))
    config = configure(folder, [f"name=stops-{step}", f"training.stop_at={stop_at}"])
    first = train_here(config)
    last = first.train[-1]
    assert last["step"] == step or (step is None and last["flops"] >= 1e9 > first.train[-2]["flops"])
    assert [v["step"] for v in first.val].count(last["step"]) == 1
    assert not first.ends
    assert losses(train_here(config)) == losses(first), "already there"
    records = train_here(configure(folder, [f"name=stops-{step}"]))
    assert losses(records) == losses(alone)
    assert {v["step"]: v["val_loss"] for v in alone.val}.items() <= {v["step"]: v["val_loss"] for v in records.val}.items()


def test_micro_batches_and_document_masks_change_how_not_what(folder: Path) -> None:
    plain = losses(train_here(configure(folder, ["name=plain", "training.duration=12 steps"])))
    micro = losses(train_here(configure(folder, ["name=micro", "training.duration=12 steps", "training.micro_batch_tokens=32"])))
    for (_, a), (_, b) in zip(plain, micro, strict=True):
        assert math.isclose(a, b, rel_tol=1e-4)
    masked = losses(train_here(configure(folder, ["name=masked", "training.duration=12 steps", "data.attend_across_documents=false"])))
    assert masked != plain
    assert all(math.isfinite(loss) for _, loss in masked)


def test_dropout_repeats_itself_over_a_resume(folder: Path) -> None:
    overrides = ["training.duration=25 steps", "model.dropout=0.2"]
    alone = losses(train_here(configure(folder, ["name=dropout", *overrides])))
    stops = iter([False, True, False, True])
    config = configure(folder, ["name=dropout-stopped", *overrides])
    train_here(config, stop_requested=lambda: next(stops, False))
    train_here(config, stop_requested=lambda: next(stops, False))
    assert losses(train_here(config)) == alone


def test_a_loss_that_is_not_finite_stops_the_run_with_the_remedy(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"lower training\.optimizer\.lr"):
        train_here(configure(folder, ["name=diverges", "training.optimizer.lr=1e12", "training.optimizer.clip_norm=null"]))
