import json
from pathlib import Path

import numpy as np
import pytest

from raystage.config import ConfigError
from raystage.report.columns import read_metrics
from tests.made_run import made_records, write_lines


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
    assert len(metrics._blocks) > 1
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
