"""The guard in real runs: rollbacks with the data moved on, holds, stops; and never for ever."""

import functools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import raystage.training.loop as loop_module
from raystage.report.account import account_of
from raystage.runtime.commands_file import CommandsFile
from raystage.runtime.replay_run import compare_run
from raystage.runtime.run_folder import RunFolder
from raystage.tracking.records import RunRecords, read_records
from raystage.training.checkpoint import CheckpointStore
from raystage.training.checkpoint_files import load_tensors
from raystage.training.errors import TrainingError
from raystage.training.start import from_checkpoint
from raystage.training.step import train_step
from tests.training.made_run import assign, configure, train_here

PLAIN = ["pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.rule=slope", "pacing.at=null", "pacing.settle_tokens=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guard")


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], float]], None]:
    """Multiplies the loss that the n-th call of train_step returns, and ruins the weights where that is not finite."""

    def patch(factor: Callable[[int], float]) -> None:
        calls = iter(range(1, 10**6))

        def spoiled(machinery: Any, *rest: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
            loss, norm = train_step(machinery, *rest, **named)
            by = factor(next(calls))
            if by != by:
                for parameter in machinery.model.parameters():
                    parameter.data.fill_(float("nan"))
            return loss * by, norm

        monkeypatch.setattr(loop_module, "train_step", spoiled)

    return patch


def rollbacks(records: RunRecords) -> list[dict[str, Any]]:
    return [d for d in records.decisions if d["kind"] == "rollback"]


def test_a_loss_that_is_not_finite_goes_back_and_moves_the_data_on(folder: Path, spoil: Callable[..., None]) -> None:
    spoil(lambda call: float("nan") if call == 33 else 1.0)
    records = train_here(configure(folder, ["name=nan", *PLAIN]))
    (rollback,) = rollbacks(records)
    assert (rollback["trigger"], rollback["outcome"], rollback["restored_step"], rollback["n_rollbacks"]) == ("guard", "applied", 30, 1)
    assert "step 33" in rollback["reason"]
    assert [r["step"] for r in records.train] == list(range(1, 61)), "steps go on, they were spent"
    bad = [r["step"] for r in records.train if r["loss"] is None]
    assert bad[0] == 33
    assert bad[-1] == rollback["effective_step"] - 1
    after = records.train[rollback["effective_step"] - 1]
    assert after["loss"] < 1.1 * records.train[29]["loss"]
    account = account_of(records.train[-1])
    assert account.undone == account.skipped == 256 * (rollback["effective_step"] - 1 - 30)
    assert account.passed == records.train[-1]["tokens_seen"]


@pytest.mark.parametrize(("first", "last", "effective_step"), [(51, 55, 61), (33, 37, 41)])
def test_a_rollback_that_is_due_with_the_end_comes_before_it(
    folder: Path, spoil: Callable[..., None], first: int, last: int, effective_step: int
) -> None:
    """A spike that is seen one boundary before the end, or far from it: what is saved as the run's result is never the unstable weights."""
    spoil(lambda call: 2.0 if first <= call <= last else 1.0)
    records = train_here(configure(folder, [f"name=end-{first}", *PLAIN, "pacing.guard.action=rollback"]))
    (rollback,) = rollbacks(records)
    assert rollback["effective_step"] == effective_step
    (end,) = [s.manifest for s in CheckpointStore(folder / "runs" / f"end-{first}").all() if s.manifest.reason == "end"]
    assert (end.counters.step, end.counters.n_rollbacks) == (60, 1)
    assert compare_run(folder / "runs" / f"end-{first}").difference is None


def test_a_checkpoint_of_a_rollback_has_the_validation_of_its_weights_not_of_the_ruined(folder: Path, spoil: Callable[..., None]) -> None:
    spoil(lambda call: float("nan") if call == 33 else 1.0)
    kept = ["checkpoint.keep_last=99", "validation.every_steps=5", "training.duration=40 steps"]
    train_here(configure(folder, ["name=validated", *PLAIN, *kept]))
    stored = CheckpointStore(folder / "runs" / "validated").all()
    (before,) = [s.manifest for s in stored if s.manifest.counters.step == 30]
    (after,) = [s.manifest for s in stored if s.manifest.reason == "rollback"]
    assert before.val_loss is not None
    assert after.val_loss == before.val_loss
    assert after.first_bad_step is None


def test_a_rollback_is_repeated_by_a_run_that_dies_after_it(folder: Path, spoil: Callable[..., None]) -> None:
    """Killed and resumed between rollback and end: the same losses as left alone."""
    spoil(lambda call: float("nan") if call == 33 else 1.0)
    alone = train_here(configure(folder, ["name=nan-alone", *PLAIN]))
    spoil(lambda call: float("nan") if call == 33 else 1.0)
    stops = iter([False] * 8 + [True])
    config = configure(folder, ["name=nan-stopped", *PLAIN])
    train_here(config, stop_requested=lambda: next(stops, False))
    again = train_here(config)
    assert [(r["step"], r["loss"]) for r in again.train] == [(r["step"], r["loss"]) for r in alone.train]
    assert len(rollbacks(again)) == 1


def test_a_loss_ratio_rolls_back_if_asked_and_holds_by_default(folder: Path, spoil: Callable[..., None]) -> None:
    def spike(call: int) -> float:
        return 2.0 if 31 <= call <= 40 else 1.0

    spoil(spike)
    held = train_here(configure(folder, ["name=held", *PLAIN]))
    assert [(d["kind"], d["trigger"], d["reason"]) for d in held.decisions] == [("hold", "guard", "loss ratio")]
    assert [c["reason"] for c in held.checks].count("loss ratio") == 2
    spoil(spike)
    back = train_here(configure(folder, ["name=back", *PLAIN, "pacing.guard.action=rollback"]))
    assert rollbacks(back)[0]["restored_step"] == 30
    assert rollbacks(back)[0]["reason"] == "loss ratio"
    for name in ("held", "back"):
        assert compare_run(folder / "runs" / name).difference is None


@pytest.mark.parametrize(("keep_last", "restored"), [(9, [30, 20]), (1, [30, 40])])
def test_rollbacks_go_further_back_where_they_can_and_end(
    folder: Path, spoil: Callable[..., None], keep_last: int, restored: list[int]
) -> None:
    spoil(lambda call: float("nan") if call >= 33 else 1.0)
    kept = f"checkpoint={{keep_last: {keep_last}, keep_best: 0, every_steps: 10}}"
    overrides = [*PLAIN, "pacing.guard.max_rollbacks=2", "training.duration=90 steps", kept]
    config = configure(folder, [f"name=for-ever-{keep_last}", *overrides])
    with pytest.raises(TrainingError, match=r"not finite.*after 2 rollbacks; lower training\.optimizer\.lr"):
        train_here(config)
    records = RunRecords.load(folder / "runs" / f"for-ever-{keep_last}")
    assert [d["restored_step"] for d in rollbacks(records)] == restored


def test_without_a_checkpoint_or_a_wish_to_go_back_it_stops(folder: Path, spoil: Callable[..., None]) -> None:
    spoil(lambda call: float("nan") if call == 3 else 1.0)
    with pytest.raises(TrainingError, match=r"first in step 3.*no earlier checkpoint"):
        train_here(configure(folder, ["name=too-soon", *PLAIN]))
    spoil(lambda call: float("nan") if call == 33 else 1.0)
    with pytest.raises(TrainingError, match=r"not finite, first in step 33.*pacing\.guard says stop"):
        train_here(configure(folder, ["name=no-wish", *PLAIN, "pacing.guard.non_finite=stop"]))
    spoil(lambda call: 2.0 if call >= 31 else 1.0)
    with pytest.raises(TrainingError, match=r"unstable at step 35 \(loss ratio\)"):
        train_here(configure(folder, ["name=stops", *PLAIN, "pacing.guard.action=stop"]))


def test_ruined_weights_are_never_saved_and_the_last_steps_roll_back_too(folder: Path, spoil: Callable[..., None]) -> None:
    spoil(lambda call: float("nan") if call == 58 else 1.0)
    records = train_here(configure(folder, ["name=late", *PLAIN, "checkpoint.every_steps=5", "checkpoint.keep_last=9"]))
    assert rollbacks(records)[0]["restored_step"] == 55
    assert records.train[-1]["step"] == 60
    assert records.val[-1]["val_loss"] < 10
    spoil(lambda call: float("nan") if call == 33 else 1.0)
    stops = iter([False] * 6 + [True])
    config = configure(folder, ["name=stopped-ruined", *PLAIN, "checkpoint.every_steps=5"])
    train_here(config, stop_requested=lambda: next(stops, False))
    stored = CheckpointStore(folder / "runs" / "stopped-ruined").latest_good()
    assert stored is not None
    assert (stored.manifest.counters.step, stored.manifest.counters.n_rollbacks) == (35, 1), "the stop waits for the losses behind it"
    assert all(tensor.isfinite().all() for tensor in load_tensors(stored.folder).parameters.values())
    assert [r["step"] for r in train_here(config).train if r["loss"] is None] == [33, 34, 35]


def test_a_pause_by_hand_does_not_hold_the_guard(folder: Path, spoil: Callable[..., None]) -> None:
    spoil(lambda call: 2.0 if call >= 31 else 1.0)
    config = configure(folder, ["name=paused", *PLAIN, "pacing.guard.action=rollback"])
    CommandsFile(assign(config).run_dir).add("pause", None)
    records = train_here(config)
    assert [(d["kind"], d["trigger"]) for d in records.decisions] == [("hold", "manual"), ("rollback", "guard")]
    assert records.train[-1]["held"]


def test_a_scheduled_change_in_between_does_not_make_the_guard_forget(folder: Path, spoil: Callable[..., None]) -> None:
    spoil(lambda call: 2.0 if 31 <= call <= 40 else 1.0)
    table = ["pacing.rule=table", "pacing.lengths=[16, 32]", "pacing.at=[0.64]", "pacing.guard.action=rollback"]
    records = train_here(configure(folder, ["name=change-between", *PLAIN, *table]))
    made = [(d["kind"], d["trigger"], d["effective_step"]) for d in records.decisions]
    assert made[:2] == [("raise_seq_len", "schedule", 40), ("rollback", "guard", 41)]
    assert rollbacks(records)[0]["restored_step"] == 30
    assert compare_run(folder / "runs" / "change-between").difference is None


def test_weights_that_turn_unstable_while_a_change_is_on_its_way_are_rolled_back_behind_it(
    folder: Path, spoil: Callable[..., None]
) -> None:
    """The change was decided at step 30, and is made before anyone knows of the trouble since."""
    spoil(lambda call: 2.0 if 32 <= call <= 35 else 1.0)
    by_dwell = ["pacing.lengths=[16, 32]", "pacing.min_dwell_tokens=256", "pacing.max_dwell_tokens=7680", "pacing.guard.action=rollback"]
    records = train_here(configure(folder, ["name=overtaken", *PLAIN, *by_dwell]))
    made = [(d["kind"], d["trigger"], d["effective_step"]) for d in records.decisions]
    assert made[:2] == [("raise_seq_len", "max_dwell", 36), ("rollback", "guard", 41)]
    assert rollbacks(records)[0]["restored_step"] == 30
    assert compare_run(folder / "runs" / "overtaken").difference is None


@pytest.mark.parametrize(("name", "factor"), [("spike", 2.0), ("ruin", float("nan"))])
def test_what_is_said_by_hand_waits_for_a_rollback(folder: Path, spoil: Callable[..., None], name: str, factor: float) -> None:
    """A spike from step 31 on is answered before step 41; weights ruined in step 37 are known when the hold is to be saved."""
    spoil(lambda call: factor if (31 <= call <= 40 if name == "spike" else call == 37) else 1.0)
    only_one = "checkpoint={keep_last: 1, keep_best: 0, every_steps: 10}"
    config = configure(folder, [f"name=by-hand-{name}", *PLAIN, "pacing.guard.action=rollback", only_one])
    commands, boundaries = CommandsFile(assign(config).run_dir), iter(range(1, 100))

    def says_pause_after_step_35() -> bool:
        if next(boundaries) == 7:
            commands.add("pause", None)
        return False

    records = train_here(config, stop_requested=says_pause_after_step_35)
    assert [(d["kind"], d["trigger"]) for d in records.decisions] == [("rollback", "guard"), ("hold", "manual")]


@pytest.mark.parametrize(("watched", "every"), [("null", loop_module.MOMENT_EVERY_STEPS), ("100", 5)])
def test_stability_is_logged(folder: Path, watched: str, every: int) -> None:
    """Second moments, which cost as much as there are parameters, at every boundary only where the guard looks at them."""
    records = train_here(configure(folder, [f"name=logged-{watched}", *PLAIN, f"pacing.guard.second_moment_ratio={watched}"]))
    moments = {r["step"]: r["second_moment"] for r in records.train if r["second_moment"] is not None}
    assert list(moments) == list(range(every, 61, every))
    assert all(m > 0 for m in moments.values())
    assert all(r["grad_norm"] > 0 for r in records.train)


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_the_ruined_model_is_gone_when_the_restored_one_is_made(
    compiled: str, folder: Path, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a rollback would need the memory of both."""
    honest, alive = train_step, list[int]()
    seen: list[weakref.ref[Any]] = []

    def noting(machinery: Any, *rest: Any, **named: Any) -> Any:
        seen[:] = [
            weakref.ref(p) for p in (*machinery.model.parameters(), *(t for s in machinery.optimizer.state.values() for t in s.values()))
        ]
        return honest(machinery, *rest, **named)

    def restoring(*args: Any) -> Any:
        alive.append(sum(ref() is not None for ref in seen))
        return from_checkpoint(*args)

    monkeypatch.setitem(globals(), "train_step", noting)
    monkeypatch.setattr("raystage.training.rollback.from_checkpoint", restoring)
    spoil(lambda call: float("nan") if call == 33 else 1.0)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))  # which needs no C++ compiler
    train_here(configure(folder, [f"name=gone-{compiled}", *PLAIN, f"training.compile={compiled}"]))
    assert alive == [0]


def test_a_rollback_that_fails_says_why(folder: Path, spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise MemoryError("no room for the model")

    spoil(lambda call: float("nan") if call == 33 else 1.0)
    monkeypatch.setattr("raystage.training.rollback.from_checkpoint", fails)
    config = configure(folder, ["name=no-way-back", *PLAIN])
    with pytest.raises(MemoryError, match="no room for the model"):
        train_here(config)
    (failure,) = read_records(RunFolder.of(config).path / "failures.jsonl")
    assert "no room for the model" in failure["error"]
