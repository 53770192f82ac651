import json
from pathlib import Path

import numpy as np
import pytest

from raystage.config import ConfigError
from raystage.report import read
from raystage.report.read import read_metrics
from raystage.report.read_lines import read_lines
from raystage.report.read_table import read_table
from tests.made_run import made_records, write_lines


@pytest.fixture(autouse=True, params=["as small files are", "as large files are"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "as large files are":
        monkeypatch.setattr(read, "_LARGE_BYTES", 0)


def line(step: int, **more: object) -> str:
    clocks = {"tokens_seen": 8 * step, "flops": 1.5 * step, "time_s": 0.1 * step, "stage": 0, "world_size": 1}
    return json.dumps({"kind": "train", "step": step, **clocks, "loss": 1.0 / step, **more})


def written(folder: Path, text: str) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text(text)
    return path


def test_columns_are_the_records_by_kind_and_key(tmp_path: Path) -> None:
    records, _ = made_records()
    path = tmp_path / "metrics.jsonl"
    write_lines(path, records)
    metrics = read_metrics(path)
    read = {"train": ("step", "loss", "second_moment", "mfu"), "val": ("val_loss", "stage_end"), "check": ("slope", "fired")}
    for kind, keys in read.items():
        of_kind = [record for record in records if record["kind"] == kind]
        for key in keys:
            expected = np.array([np.nan if record[key] is None else float(record[key]) for record in of_kind])
            np.testing.assert_array_equal(metrics.of[kind][key], expected)
    assert (len(metrics.of["start"]), len(metrics.of["end"]), metrics.device) == (1, 1, "cpu")


def test_any_training_record_is_found_again_whole(tmp_path: Path) -> None:
    """Some 2000 lines of 300 bytes are several blocks."""
    text = "".join(
        line(step, note="x" * 200) + "\n" + (line(step, kind="other") + "\n" if step % 7 == 0 else "") for step in range(1, 2001)
    )
    metrics = read_metrics(written(tmp_path, text))
    assert len(metrics.blocks) > 1
    positions = [0, 1, 777, 1998, 1999]
    assert [record["step"] for record in metrics.train_records(positions)] == [position + 1 for position in positions]
    assert metrics.train_records([5])[0] == json.loads(line(6, note="x" * 200))


def test_a_line_longer_than_a_block_and_blank_lines_are_read(tmp_path: Path) -> None:
    metrics = read_metrics(written(tmp_path, line(1) + "\n\n" + line(2, note="x" * 700_000) + "\n" + line(3) + "\n"))
    assert metrics.of["train"]["step"].tolist() == [1, 2, 3]
    assert metrics.train_records([2])[0]["step"] == 3


def test_a_torn_last_line_is_no_record(tmp_path: Path) -> None:
    assert read_metrics(written(tmp_path, line(1) + "\n" + line(2))).of["train"]["step"].tolist() == [1]
    assert len(read_metrics(tmp_path / "absent").of["train"]) == 0


def test_kinds_that_a_report_does_not_read_may_hold_anything(tmp_path: Path) -> None:
    other = {"kind": "preflight", "loss": {"a": 1}, "stage": "all"}
    assert len(read_metrics(written(tmp_path, json.dumps(other) + "\n" + line(1) + "\n")).of["train"]) == 1


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("\x00" * 40, "not a JSON object"),
        (line(1501) + line(1501), "not a JSON object"),
        (line(1501, loss="high"), "Expected `float | null`, got `str` - at `$.loss`"),
        (line(1501, loss=float("nan")), "not a JSON object"),
    ],
)
def test_a_broken_line_is_named_in_whatever_block(tmp_path: Path, broken: str, message: str) -> None:
    lines = [line(step, note="x" * 300) for step in range(1, 2001)]
    lines[1500] = broken
    with pytest.raises(ConfigError) as error:
        read_metrics(written(tmp_path, "\n".join(lines) + "\n"))
    assert str(error.value).startswith(f"{tmp_path / 'metrics.jsonl'}:1501: ")
    assert message in str(error.value)


def test_an_object_over_two_lines_is_broken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:2: not a JSON object"):
        read_metrics(written(tmp_path, line(1) + "\n" + line(2).replace(", ", ",\n", 1) + "\n"))


def test_a_record_without_its_clock_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train record number 2 has no time_s"):
        read_metrics(written(tmp_path, line(1) + "\n" + line(2, time_s=None) + "\n"))


def test_both_ways_of_reading_find_the_same(tmp_path: Path) -> None:
    records, _ = made_records()
    path = tmp_path / "metrics.jsonl"
    write_lines(path, records * 50)
    by_line, by_table = read_lines(path), read_table(path)
    assert by_table is not None
    assert (by_table.device, by_table.blocks) == (by_line.device, by_line.blocks)
    for kind, columns in by_line.of.items():
        for key, column in columns.of.items():
            np.testing.assert_array_equal(by_table.of[kind][key], column)


@pytest.mark.parametrize(
    "text", [line(1) + "\n" + line(2), line(1) + "\n\n" + line(2) + "\n", line(1) + "\n{\n", line(1, loss="high") + "\n"]
)
def test_what_training_does_not_write_is_no_table(tmp_path: Path, text: str) -> None:
    assert read_table(written(tmp_path, text)) is None


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    for folder, step in (("run-1", 1), ("run-[1]", 2)):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, line(step) + "\n")
    assert read_metrics(tmp_path / "run-[1]" / "metrics.jsonl").of["train"]["step"].tolist() == [2]
