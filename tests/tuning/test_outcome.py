"""What a trial showed, read from records: the objective, the constraints, the cost."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from raystage.config.search import Constraints, Objective
from raystage.tuning.outcome import Outcome, outcome_of, perplexity_ratios
from raystage.tuning.point_result import result_of
from tests.training.made_run import configure

NONE = Constraints(val_perplexity_ratio=None)


def write(folder: Path, val: list[float | None], losses: list[float] | None = None) -> Path:
    """A run of ten steps a validation."""
    clocks = {"tokens_seen": 0, "flops": 0.0, "time_s": 0.0}
    records: list[dict[str, Any]] = []
    for n, loss in enumerate(val, 1):
        for step in range(10 * n - 9, 10 * n + 1):
            clocks = {"tokens_seen": 256 * step, "flops": 1e9 * step, "time_s": 0.1 * step}
            records.append({"kind": "train", "step": step, "loss": losses[n - 1] if losses else 4.0, **clocks})
        records.append({"kind": "val", "step": 10 * n, "val_loss": loss, **clocks})
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def read(
    folder: Path, tmp_path: Path, objective: Objective | None = None, constraints: Constraints = NONE, status: Any = "done"
) -> Outcome:
    config = configure(tmp_path, ["pacing.check_every_steps=10"])
    return outcome_of(folder, config, objective or Objective(), constraints, status)


def test_the_objective_is_the_last_validation_and_validations_cost(tmp_path: Path) -> None:
    outcome = read(write(tmp_path / "run", [5.0, 4.0, 4.5]), tmp_path)
    assert (outcome.value, outcome.status, outcome.steps, outcome.tokens) == (4.5, "done", 30, 7680)
    assert outcome.is_good
    assert 30e9 < outcome.flops < 33e9


def test_perplexity_is_held_against_the_best_before() -> None:
    val = [{"val_loss": loss, "step": n} for n, loss in enumerate([5.0, 4.0, 4.0 + math.log(1.5), 3.9, None])]
    ratios = [ratio for ratio, _ in perplexity_ratios(val)]
    assert ratios == pytest.approx([1.0, 1.0, 1.5, 1.0, math.inf])


def test_a_broken_constraint_rejects_and_says_where(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [5.0, 4.0, 4.5, 3.0, 9.0])
    outcome = read(folder, tmp_path, constraints=Constraints(val_perplexity_ratio=1.3))
    assert outcome.rejected == "validation perplexity rose to 1.65 x its best so far at step 30 (allowed: 1.3)"
    assert not outcome.is_good
    assert read(folder, tmp_path, constraints=Constraints(val_perplexity_ratio=500.0)).is_good


def test_training_loss_may_be_a_constraint_too(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [5.0, 4.0, 3.0], losses=[5.0, 4.0, 6.0])
    outcome = read(folder, tmp_path, constraints=Constraints(val_perplexity_ratio=None, loss_ratio=1.2))
    assert outcome.rejected == "training loss rose to 1.50 x its best so far at step 21 (allowed: 1.2)"


@pytest.mark.parametrize(("per", "value"), [("compute", 20e9), ("tokens", 5120), ("seconds", 2.0)])
def test_time_to_loss(tmp_path: Path, per: Any, value: float) -> None:
    folder = write(tmp_path / "run", [5.0, 4.0, 3.0])
    assert read(folder, tmp_path, Objective(kind="time_to_loss", per=per, loss=4.2)).value == pytest.approx(value)
    late = read(folder, tmp_path, Objective(kind="time_to_loss", per=per, loss=2.0))
    assert (late.value, late.rejected) == (None, "validation loss 2.0 was not reached")


def test_what_the_guard_ended_and_losses_that_are_no_numbers_reject(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [5.0, 4.0])
    decision = {"decision_id": 1, "kind": "stop", "trigger": "guard", "effective_step": 17}
    (folder / "decisions.jsonl").write_text(json.dumps(decision) + "\n")
    assert read(folder, tmp_path).rejected == "the guard: stop at step 17"
    lines = (folder / "metrics.jsonl").read_text().replace('"step": 13, "loss": 4.0', '"step": 13, "loss": null')
    (folder / "metrics.jsonl").write_text(lines)
    (folder / "decisions.jsonl").unlink()
    assert read(folder, tmp_path).rejected == "the loss was not finite at step 13"


def test_a_run_without_steps_has_failed(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing", tmp_path).status == "failed"


def test_a_point_is_as_good_as_its_seeds(tmp_path: Path) -> None:
    good, other = Outcome("done", 3.0, flops=1.0), Outcome("done", 3.2, flops=2.0)
    both = result_of([good, other])
    assert (both.value, both.flops, both.is_good) == (pytest.approx(3.1), 3.0, True)
    assert both.spread == pytest.approx(0.1414, rel=1e-3)
    assert result_of([good, Outcome("done", 3.2, "unstable")]).rejected == "unstable"
    assert result_of([good, Outcome("failed")]).rejected == "its trial failed"
    assert result_of([good, Outcome("ended early", 3.9)]).rejected == "ended early: others were ahead"
