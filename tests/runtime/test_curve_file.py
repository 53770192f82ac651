"""Loss curves from files: what is read, and every mistake in one line with its place."""

import json
from pathlib import Path

import numpy as np
import pytest

from raystage.config import ConfigError
from raystage.runtime.curve_file import read_curve
from raystage.runtime.replay import stage_spans
from tests.made_run import STAGES, write_made_run


def written(folder: Path, text: str, name: str = "curve.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_file_with_all_columns_and_others(tmp_path: Path) -> None:
    text = "\ufeffstep, Loss,note,tokens,seconds,lr\r\n1,9.5,a,100,0.5,1e-3\r\n\r\n3,8.5,b,300,1.5,2e-3\r\n"
    curve = read_curve(written(tmp_path, text))
    assert curve.step.tolist() == [1, 3]
    assert curve.loss.tolist() == [9.5, 8.5]
    assert curve.tokens is not None
    assert curve.tokens.tolist() == [100, 300]
    assert curve.seconds is not None
    assert curve.seconds.tolist() == [0.5, 1.5]
    assert curve.lr is not None
    assert curve.lr.tolist() == [1e-3, 2e-3]
    assert curve.compute is None
    assert curve.stage.tolist() == [0, 0]


def test_a_csv_file_with_step_and_loss_alone_leaves_out_step_0(tmp_path: Path) -> None:
    curve = read_curve(written(tmp_path, "loss,step\n11,0\n10,1\n9,2\n"))
    assert curve.step.tolist() == [1, 2]
    assert curve.loss.tolist() == [10, 9]
    assert curve.tokens is curve.seconds is curve.lr is None


def test_a_run_folder_and_its_metrics_are_the_same_curve(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run")
    curve, same = read_curve(folder), read_curve(folder / "metrics.jsonl")
    assert len(curve.step) == sum(stage.steps for stage in STAGES)
    assert np.array_equal(curve.loss, same.loss)
    assert curve.tokens is not None
    assert curve.tokens[0] == 2048
    assert curve.seconds is not None
    assert curve.lr is not None
    assert [int((curve.stage == i).sum()) for i in range(len(STAGES))] == [stage.steps for stage in STAGES]


def test_a_record_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    line = json.dumps({"kind": "train", "step": 1, "loss": 5.0})
    path = written(tmp_path, f'{line}\n{{"kind": "val", "step": 1}}\n{{"kind": "train", "st', "metrics.jsonl")
    assert read_curve(path).step.tolist() == [1]


REFUSED = {
    "empty": ("", ["curve.csv:1", "empty", "step"]),
    "header alone": ("step,loss\n", ["curve.csv", "no training step"]),
    "no loss column": ("Wall time,Step,Value\n1,2,3\n", ["curve.csv:1", "no column loss", "Value"]),
    "twice the same column": ("step,loss,loss\n1,2,3\n", ["curve.csv:1", "loss", "twice"]),
    "a broken number": ("step,loss\n1,9\n2,8.5x\n", ["curve.csv:3", "loss", "8.5x"]),
    "a broken optional number": ("step,loss,tokens\n1,9,\n", ["curve.csv:2", "tokens", "''"]),
    "a short row": ("step,loss\n1,9\n2\n", ["curve.csv:3", "no loss"]),
    "nan": ("step,loss\n1,9\n2,nan\n", ["curve.csv:3", "loss is nan"]),
    "infinity": ("step,loss\n1,inf\n", ["curve.csv:2", "loss is inf"]),
    "a loss of 0": ("step,loss\n1,0\n", ["curve.csv:2", "above 0"]),
    "half a step": ("step,loss\n1.5,9\n", ["curve.csv:2", "whole number"]),
    "a step below 0": ("step,loss\n-1,9\n", ["curve.csv:2", "whole number"]),
    "steps that run back": ("step,loss\n1,9\n5,8\n3,7\n", ["curve.csv:4", "step 3 after 5"]),
    "a step twice": ("step,loss\n1,9\n1,8\n", ["curve.csv:3", "step 1 after 1"]),
    "tokens that run back": ("step,loss,tokens\n1,9,50\n2,8,40\n", ["curve.csv:3", "tokens 40 after 50"]),
    "a rate below 0": ("step,loss,lr\n1,9,-1\n", ["curve.csv:2", "lr is -1"]),
    "quotes that do not close": ('step,loss\n1,"9\n2,8\n', ["curve.csv:3", "loss"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_csv_file_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    text, words = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        read_curve(written(tmp_path, text))
    message = str(refused.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert len(message) < 400 + len(str(tmp_path))


RECORDS = {
    "no json": ("{kind\n", ["metrics.jsonl:1", "JSON"]),
    "no loss": ('{"kind": "train", "step": 1}\n', ["metrics.jsonl:1", "without loss"]),
    "a loss of text": ('{"kind": "train", "step": 1, "loss": "3"}\n', ["metrics.jsonl:1", "'3'"]),
    "no training": ('{"kind": "start", "step": 0}\n', ["metrics.jsonl", "no training step"]),
    "steps that run back": ('{"kind": "train", "step": 2, "loss": 3}\n{"kind": "train", "step": 1, "loss": 3}\n', [":2", "step 1 after 2"]),
}


def test_a_loss_that_was_not_finite_is_passed_over(tmp_path: Path) -> None:
    file, losses = tmp_path / "metrics.jsonl", ["3", "null", "2"]
    lines = [f'{{"kind": "train", "step": {n}, "loss": {loss}, "n_rollbacks": {n // 3}}}\n' for n, loss in enumerate(losses, 1)]
    file.write_text("".join(lines))
    curve = read_curve(file)
    assert (curve.step.tolist(), curve.loss.tolist(), curve.n_rollbacks.tolist()) == ([1, 3], [3.0, 2.0], [0, 1])
    assert stage_spans(curve) == [slice(0, 1), slice(1, 2)], "after a rollback the loss lies on another curve"


@pytest.mark.parametrize("case", RECORDS)
def test_a_broken_records_file_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    text, words = RECORDS[case]
    with pytest.raises(ConfigError) as refused:
        read_curve(written(tmp_path, text, "metrics.jsonl"))
    assert all(word in str(refused.value) for word in words), refused.value


def test_what_is_no_curve_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    for name, word in (("nothing.csv", "cannot be read"), ("image.csv", "not a text file"), (".", "cannot be read")):
        with pytest.raises(ConfigError, match=word):
            read_curve(tmp_path / name)
