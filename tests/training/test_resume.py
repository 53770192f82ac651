"""A run stopped or killed anywhere goes on bitwise: same losses, same decisions, same tokens next."""

import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystage.config import dump
from raystage.tracking.records import RunRecords
from raystage.training.checkpoint import CheckpointStore
from raystage.training.checkpoint_writing import CheckpointWriter
from raystage.training.manifest import Manifest
from tests.gang import processes
from tests.training.made_run import SLOPE, assign, configure, losses, train_here


def decisions(records: RunRecords) -> list[dict[str, object]]:
    return [{key: value for key, value in d.items() if key != "time_s"} for d in records.decisions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.mark.parametrize("rule", ["table", "slope"])
def test_a_run_stopped_at_any_boundary_equals_one_left_alone(folder: Path, rule: str) -> None:
    overrides = SLOPE if rule == "slope" else []
    alone = train_here(configure(folder, [f"name=alone-{rule}", *overrides]))
    assert [d["kind"] for d in alone.decisions] == ["raise_seq_len", "grow_depth", "grow_width"]
    assert all(d["outcome"] == "applied" for d in alone.decisions)
    config = configure(folder, [f"name=stopped-{rule}", *overrides])
    chances = random.Random(3)
    for _ in range(60):
        records = train_here(config, stop_requested=lambda: chances.random() < 0.3)
        if records.ends:
            break
    assert len({record["attempt"] for record in records.train}) > 3
    assert losses(records) == losses(alone)
    assert decisions(records) == decisions(alone)
    assert [(v["step"], v["val_loss"]) for v in records.val] == [(v["step"], v["val_loss"]) for v in alone.val]


@pytest.mark.parametrize("rule", ["table", "slope"])
def test_dying_right_after_every_save_changes_nothing(folder: Path, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = SLOPE if rule == "slope" else []
    alone = train_here(configure(folder, [f"name=alone-saves-{rule}", *overrides]))
    save, seen = CheckpointWriter.save, set()

    class DiedError(Exception):
        pass

    def save_and_die(store: CheckpointWriter, manifest: Manifest, *rest: Any) -> Path:
        folder = save(store, manifest, *rest)
        moment = (*manifest.key[:2], manifest.reason)
        if moment not in seen:
            seen.add(moment)
            raise DiedError
        return folder

    monkeypatch.setattr(CheckpointWriter, "save", save_and_die)
    config = configure(folder, [f"name=dying-{rule}", *overrides])
    for _ in range(100):
        with contextlib.suppress(DiedError):
            records = train_here(config)
            break
    assert len(seen) > 8
    assert losses(records) == losses(alone)
    assert decisions(records) == decisions(alone)


def test_killed_at_random_moments_equals_left_alone(folder: Path) -> None:
    """SIGKILL, with real processes: during steps, saves, growth or start-up, wherever it falls."""
    alone = train_here(configure(folder, ["name=alone-kill", "training.duration=150 steps"]))
    config = configure(folder, ["name=killed", "training.duration=150 steps", "training.preflight=true"])
    assign(config)
    chances, metrics = random.Random(1), Path(config.storage) / "killed" / "metrics.jsonl"
    killed = 0
    for _ in range(12):
        begun_bytes = metrics.stat().st_size if metrics.exists() else 0
        process = processes().Process(target=train_here, args=(config,))
        process.start()
        while process.is_alive() and (not metrics.exists() or metrics.stat().st_size == begun_bytes):
            time.sleep(0.01)
        time.sleep(chances.uniform(0.0, 0.5))
        if killed < 4 and process.is_alive():
            process.kill()
            killed += 1
        process.join()
        if process.exitcode == 0:
            break
    records = RunRecords.load(metrics.parent)
    assert killed >= 2
    assert losses(records) == losses(alone)
    assert decisions(records) == decisions(alone)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(folder: Path) -> None:
    config = configure(folder, ["name=damaged", "training.duration=30 steps"])
    train_here(config)
    store = CheckpointStore(Path(config.storage) / "damaged")
    newest = store.all()[-1]
    (newest.folder / "model.safetensors").write_bytes(b"\0" * 100)
    said: list[str] = []
    good = store.latest_good(on_damage=said)
    assert good is not None
    assert good.folder != newest.folder
    assert newest.folder.name in said[0]


def test_retention_keeps_the_latest_the_best_and_the_pinned(folder: Path) -> None:
    config = configure(folder, ["name=kept", "checkpoint.keep_last=1", "checkpoint.keep_best=1", "checkpoint.every_steps=5"])
    train_here(config)
    stored = CheckpointStore(Path(config.storage) / "kept").all()
    pinned = [s.manifest.reason for s in stored if s.manifest.pinned]
    assert pinned == ["before-2", "before-3", "end"]
    free = [s for s in stored if not s.manifest.pinned]
    assert 1 <= len(free) <= 2
    assert max(s.manifest.key for s in stored) == stored[-1].manifest.key


def test_a_longer_duration_goes_on_from_the_end(folder: Path) -> None:
    train_here(
        configure(folder, ["name=longer", "training.duration=33 steps", "training.schedule.kind=constant", "pacing.at=[0.1,0.2,0.3]"])
    )
    records = train_here(
        configure(folder, ["name=longer", "training.duration=47 steps", "training.schedule.kind=constant", "pacing.at=[0.1,0.2,0.3]"])
    )
    assert [record["step"] for record in records.train] == list(range(1, 48))
    assert len(records.ends) == 1


def test_the_manifest_holds_what_a_resume_needs(folder: Path) -> None:
    config = configure(folder, ["name=manifest"])
    train_here(config)
    stored = CheckpointStore(Path(config.storage) / "manifest").latest_good()
    assert stored is not None
    tree = json.loads((stored.folder / "manifest.json").read_text())
    assert tree["shape"] == {"seq_len_tokens": 32, "n_layer": 2, "d_model": 32, "batch_tokens": 256}
    assert tree["taken"] == [3]
    assert len(tree["decisions"]) == 3
    assert tree["counters"]["tokens_seen"] == 60 * 256
    assert set(tree["files"]) == {"model.safetensors", "optimizer.safetensors"}
    assert yaml.safe_load(dump(config))["seed"] == tree["seed"]
