"""Decisions by hand: at a boundary, recorded, and repeated by a run that comes by them again."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from raystage.config import ConfigError
from raystage.runtime.commands_file import CommandsFile, ask
from raystage.tracking.records import RunRecords
from raystage.training.by_hand import next_command
from raystage.training.checkpoint import CheckpointStore
from raystage.training.checkpoint_writing import CheckpointWriter
from tests.training.made_run import assign, configure, losses, train_here

# no slope ever passes
BY_HAND = [
    "pacing.rule=slope",
    "pacing.at=null",
    "pacing.order=free",
    "pacing.thresholds={length: -1e-9, depth: -1e-9, width: -1e-9}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hand")


def told(folder: Path, name: str, commands: list[tuple[int, str, str | None]], overrides: list[str] | None = None) -> RunRecords:
    """A run that is given each command at the boundary after so many boundaries."""
    config = configure(folder, [f"name={name}", *(overrides or BY_HAND)])
    file, boundaries = CommandsFile(assign(config).run_dir), iter(range(1, 1000))

    def at_boundary() -> bool:
        boundary = next(boundaries)
        for when, action, what in commands:
            if when == boundary:
                file.add(action, what)
        return False

    return train_here(config, stop_requested=at_boundary)


def of(records: RunRecords) -> list[tuple[Any, ...]]:
    return [(d["kind"], d["trigger"], d["effective_step"], d["outcome"]) for d in records.decisions]


def test_raise_and_grow_take_the_next_change_at_the_next_boundary(folder: Path) -> None:
    records = told(folder, "changes", [(2, "grow", "width"), (4, "raise", None), (6, "grow", None), (8, "grow", None)])
    assert of(records) == [
        ("grow_width", "manual", 16, "applied"),
        ("raise_seq_len", "manual", 26, "applied"),
        ("grow_depth", "manual", 36, "applied"),
        ("hold", "manual", 46, "refused"),
    ]
    assert records.decisions[-1]["reason"] == "no depth or width comes next; the plan's next change: none, it is complete"
    assert [d["command_id"] for d in records.decisions] == [1, 2, 3, 4]
    last = records.train[-1]
    assert (last["seq_len_tokens"], last["n_layer"], last["d_model"]) == (32, 2, 32)


def test_pause_holds_the_schedule_too_until_resumed(folder: Path) -> None:
    overrides = ["pacing.rule=table"]
    records = told(folder, "paused", [(1, "pause", None), (7, "resume", None)], overrides)
    assert of(records)[:3] == [
        ("hold", "manual", 11, "applied"),
        ("resume", "manual", 41, "applied"),
        ("raise_seq_len", "schedule", 41, "applied"),
    ]
    assert [r["stage"] for r in records.train[:40]] == [0] * 40
    assert {c["reason"] for c in records.checks if 15 <= c["step"] <= 40} <= {"held by hand", "before its time", "settling"}


def test_stop_by_hand_saves_and_the_same_command_goes_on(folder: Path) -> None:
    records = told(folder, "stopped", [(3, "stop", None)])
    assert records.train[-1]["step"] == 20
    assert of(records) == [("stop", "manual", 21, "applied")]
    again = train_here(configure(folder, ["name=stopped", *BY_HAND]))
    assert again.train[-1]["step"] == 60
    assert losses(again) == losses(train_here(configure(folder, ["name=never-stopped", *BY_HAND])))


def test_a_stop_asked_for_while_nobody_trains_stops_the_next_attempt_at_once(folder: Path) -> None:
    config = configure(folder, ["name=stopped-before", *BY_HAND])
    CommandsFile(assign(config).run_dir).add("stop", None)
    assert train_here(config).train == []
    assert [r["step"] for r in train_here(config).train] == list(range(1, 61)), "and is done with"


def test_another_runs_commands_are_not_this_runs(folder: Path) -> None:
    told(folder, "first", [(2, "grow", "width")], [*BY_HAND, "training.duration=20 steps"])
    more = [*BY_HAND, f"init_from.path={folder / 'runs' / 'first'}", "init_from.what=state"]
    records = told(folder, "second", [(2, "grow", "depth")], more)
    assert [(d["kind"], d["command_id"]) for d in records.decisions] == [("grow_width", None), ("grow_depth", 1)]


def test_a_run_that_dies_repeats_its_commands_at_their_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = told(folder, "told-alone", [(2, "grow", "depth"), (5, "raise", None)])
    save = CheckpointWriter.save

    class DiedError(Exception):
        pass

    def die(store: CheckpointWriter, manifest: Any, *rest: Any) -> Path:
        if manifest.counters.step >= 15 and manifest.position == 1 and not died:
            died.append(True)
            raise DiedError
        return save(store, manifest, *rest)

    died: list[bool] = []
    monkeypatch.setattr(CheckpointWriter, "save", die)
    with pytest.raises(DiedError):
        told(folder, "told-dies", [(2, "grow", "depth")])
    CommandsFile(folder / "runs" / "told-dies").add("raise", None)
    CommandsFile(folder / "runs" / "told-dies").assign(2, of(alone)[1][2])
    again = train_here(configure(folder, ["name=told-dies", *BY_HAND]))
    assert died
    assert of(again) == of(alone)
    assert losses(again) == losses(alone)


def test_a_refusal_is_followed_by_a_checkpoint_as_every_decision_is(folder: Path) -> None:
    records = told(folder, "refused", [(2, "raise", "batch")], [*BY_HAND, "checkpoint.keep_last=9"])
    (refused,) = records.decisions
    assert refused["outcome"] == "refused"
    assert any((folder / "runs" / "refused" / "checkpoints").glob(f"{refused['effective_step'] - 1:08d}-*"))


def test_a_command_waits_for_those_before_it(folder: Path) -> None:
    """A run that went back to an earlier checkpoint comes by the steps of its commands again, in their order."""
    config = configure(folder, ["name=in-order"])
    commands = CommandsFile(assign(config).run_dir)
    commands.add("pause", None)
    commands.assign(1, 101)
    commands.add("resume", None)
    assert next_command(commands, set(), 50) is None
    assert [next_command(commands, done, 100) for done in (set(), {1})] == [
        dataclasses.replace(commands.all()[0], effective_step=101),
        dataclasses.replace(commands.all()[1], effective_step=101),
    ]


def test_the_clock_of_a_checkpoint_is_that_of_its_moment(folder: Path) -> None:
    config = configure(folder, ["name=between-boundaries", *BY_HAND])
    records = train_here(config, asked=lambda step, position: "stop" if step >= 3 else None)
    stored = CheckpointStore(folder / "runs" / "between-boundaries").latest_good()
    assert stored is not None
    assert stored.manifest.counters.step == 3, "between two boundaries"
    assert stored.manifest.counters.elapsed_s >= records.train[-1]["time_s"]


def test_wishes_that_make_no_sense_are_named(folder: Path) -> None:
    train_here(configure(folder, ["name=over", "training.duration=5 steps"]))
    storage = folder / "runs"
    for action, name, what, message in [
        ("raise", None, None, "of which run"),
        ("grow", "nobody", None, "no such run folder"),
        ("grow", "over", "length", "grow takes depth or width"),
        ("pause", "over", "length", "pause takes no --what"),
        ("pause", "over", None, "is complete"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ask(storage, action, name, what)
