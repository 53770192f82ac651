import json
from pathlib import Path

import pytest

from raystage.report.cited import Cited
from raystage.report.digest import Digest, digests_of
from raystage.report.study import Comparison, study_of


def made(folder: Path, losses: list[float | None], flops_a_step: float, base: float = 0.0) -> Path:
    """Ten steps of 100 tokens between validations; 2 s a step."""
    folder.mkdir(parents=True)
    records = []
    for step in range(1, 10 * len(losses) + 1):
        clocks = {"step": step, "tokens_seen": base + 100 * step, "flops": base + flops_a_step * step, "time_s": 2.0 * step, "stage": 0}
        shape = {"seq_len_tokens": 8, "n_layer": 1, "d_model": 8, "n_parameters": 10, "world_size": 1}
        records.append({"kind": "train", **clocks, **shape, "loss": 3.0, "tokens_per_s": 50.0})
        if step % 10 == 0:
            records.append({"kind": "val", **clocks, "val_loss": losses[step // 10 - 1], "stage_end": False})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def digests(*folders: Path) -> list[Digest]:
    return digests_of([(folder, folder.name) for folder in folders])


def row(runs: list[Digest], name: str, baseline: int = 0) -> Comparison:
    study = study_of(runs, baseline)
    assert study is not None
    return next(row for row in study.rows if row.name == name)


def values(numbers: dict[str, Cited] | None) -> dict[str, float | None]:
    assert numbers is not None
    return {name: number.value for name, number in numbers.items()}


def test_what_was_needed_and_saved_is_read_off_a_straight_line(tmp_path: Path) -> None:
    """5, 4, 3 at half the FLOPs a step: 3.5, the baseline's last, is half way between steps 20 and 30."""
    runs = digests(made(tmp_path / "base", [5.0, 4.0, 3.8, 3.5], 2.0), made(tmp_path / "fast", [5.0, 4.0, 3.0], 1.0))
    fast = row(runs, "fast")
    assert values(fast.needed) == {"tokens_seen": 2500.0, "flops": 25.0, "time_s": 50.0}
    assert values(fast.saved) == pytest.approx({"tokens_seen": 1 - 25 / 40, "flops": 1 - 25 / 80, "time_s": 1 - 50 / 80})
    assert fast.needed is not None
    assert fast.needed["flops"].steps == (20, 30)
    assert values(row(runs, "base").saved) == {"tokens_seen": 0.0, "flops": 0.0, "time_s": 0.0}


def test_losses_at_equal_compute(tmp_path: Path) -> None:
    """The fast run ends at 30 FLOPs; the baseline was there between its first two validations, at 20 and 40."""
    runs = digests(made(tmp_path / "base", [5.0, 4.0, 3.8, 3.5], 2.0), made(tmp_path / "fast", [5.0, 4.0, 3.0], 1.0))
    assert values(row(runs, "fast").equal) == {"flops": 30.0, "loss": 3.0, "baseline_loss": 4.5, "lower": 1.5}
    assert values(row(runs, "base", baseline=1).equal) == {"flops": 30.0, "loss": 4.5, "baseline_loss": 3.0, "lower": -1.5}
    far = digests(made(tmp_path / "late", [5.0, 4.0], 100.0), made(tmp_path / "short", [5.0, 4.0], 1.0))
    assert row(far, "short").equal is None, "the baseline had no validation yet at so little compute"


def test_a_loss_that_is_not_reached_and_one_that_was_there_from_the_first(tmp_path: Path) -> None:
    runs = digests(
        made(tmp_path / "base", [5.0, 4.0], 1.0), made(tmp_path / "worse", [6.0, 4.5], 1.0), made(tmp_path / "better", [3.0, 2.0], 1.0)
    )
    assert row(runs, "worse").needed is None
    assert row(runs, "worse").saved is None
    assert values(row(runs, "better").needed)["flops"] == 10.0


def test_a_dip_counts_for_the_baseline_too_and_what_is_not_finite_for_nobody(tmp_path: Path) -> None:
    runs = digests(made(tmp_path / "base", [5.0, 3.0, None, 4.0], 1.0), made(tmp_path / "same", [5.0, 3.0, None, 4.0], 1.0))
    assert values(row(runs, "base").needed)["flops"] == 15.0
    assert values(row(runs, "same").saved) == {"tokens_seen": 0.0, "flops": 0.0, "time_s": 0.0}


def test_a_run_from_anothers_state_is_charged_its_own_alone(tmp_path: Path) -> None:
    runs = digests(made(tmp_path / "base", [5.0, 4.0], 1.0), made(tmp_path / "went-on", [4.5, 3.5], 1.0, base=1e6))
    assert values(row(runs, "went-on").needed) == {"tokens_seen": 1500.0, "flops": 15.0, "time_s": 30.0}
    assert values(row(runs, "went-on").equal)["flops"] == 20.0


def test_no_study_of_one_run_or_without_a_final_loss(tmp_path: Path) -> None:
    alone, unknown = made(tmp_path / "alone", [5.0], 1.0), made(tmp_path / "unknown", [None], 1.0)
    assert study_of(digests(alone), 0) is None
    assert study_of(digests(unknown, alone), 0) is None
    assert row(digests(alone, unknown), "unknown").needed is None
