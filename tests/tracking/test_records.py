import math
import subprocess
import sys
from pathlib import Path

import pytest

from raystage.config import ConfigError
from raystage.tracking.records import JsonlWriter, RunRecords, read_records
from tests.made_run import STAGES, write_made_run


def train(step: int, **more: object) -> dict[str, object]:
    return {"kind": "train", "step": step, **more}


def test_round_trip_keeps_every_digit(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(train(1, loss=0.1 + 0.2))
    assert read_records(tmp_path / "metrics.jsonl") == [train(1, loss=0.30000000000000004)]


def test_a_record_is_on_disk_before_close(tmp_path: Path) -> None:
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write(train(1))
    assert read_records(tmp_path / "metrics.jsonl") == [train(1)]


def test_non_finite_numbers_become_null_at_any_depth(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "m.jsonl") as writer:
        writer.write(train(1, loss=math.nan, more={"x": [math.inf, 1.0]}))
    assert read_records(tmp_path / "m.jsonl") == [train(1, loss=None, more={"x": [None, 1.0]})]


def test_torn_last_line_is_skipped_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "tra')
    assert read_records(path) == [train(1)]
    with JsonlWriter(path) as writer:
        writer.write(train(2))
    assert read_records(path) == [train(1), train(2)]


def test_torn_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes('{"kind": "train", "step": 1}\n{"name": "ü'.encode()[:-1])
    assert read_records(path) == [train(1)]


@pytest.mark.parametrize("bad", ["{oops}", "[1]", "7", '{"a": 1}{"b": 2}'])
def test_any_other_bad_line_names_file_and_line(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{bad}\n{{"step": 2}}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:2: not a JSON object"):
        read_records(path)


def test_truncate_drops_later_steps_and_the_end_then_appends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"kind": "start", "attempt": 1, "step": 0})
        for step in (1, 2, 3, 4):
            writer.write(train(step))
        writer.write({"kind": "end", "step": 2})
        assert writer.truncate_after(2) == 3
        writer.write({"kind": "start", "attempt": 2, "step": 2})
    assert [(r["kind"], r["step"]) for r in read_records(path)] == [("start", 0), ("train", 1), ("train", 2), ("start", 2)]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncate_by_effective_step(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "decisions.jsonl") as writer:
        writer.write({"decision_id": 1, "kind": "hold", "effective_step": 10})
        writer.write({"decision_id": 2, "kind": "hold", "effective_step": 20})
        assert writer.truncate_after(19, "effective_step") == 1
    assert [r["decision_id"] for r in read_records(tmp_path / "decisions.jsonl")] == [1]


def test_truncate_replaces_the_file_so_readers_can_tell(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        writer.write(train(1))
        writer.write(train(2))
        with path.open() as before:
            writer.truncate_after(1)
            assert len(before.readlines()) == 2
            assert len(read_records(path)) == 1


def test_load_sorts_by_kind(tmp_path: Path) -> None:
    records = RunRecords.load(write_made_run(tmp_path / "run"))
    assert len(records.train) == sum(stage.steps for stage in STAGES)
    assert (len(records.starts), len(records.ends), len(records.decisions)) == (1, 1, 4)
    assert {record["kind"] for record in records.checks} == {"check"}
    assert len(records.val) > 5


def test_load_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run folder"):
        RunRecords.load(tmp_path / "absent")
    assert RunRecords.load(tmp_path).train == []


def test_import_is_cheap() -> None:
    code = "import sys, raystage.tracking, raystage.tracking.mlflow_sink; print({'mlflow', 'torch', 'ray', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_nothing_is_written_where_nothing_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"step": 1}, {"step": 2})
        before = path.stat().st_ino
        assert writer.truncate_after(2) == 0
        assert (path.stat().st_ino, [each.name for each in tmp_path.iterdir()]) == (before, ["metrics.jsonl"])
