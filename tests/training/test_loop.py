"""What a run records, the gate of growth, both cutting modes, both batch rules, every duration."""

import math
from pathlib import Path

import pytest

from raystage.training.errors import TrainingError
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
