"""The command line as a user meets it: exit codes, one line for a mistake, help that lists every key."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import threading
import time
import unittest.mock
from pathlib import Path

import pytest

from raystage.cli import main
from raystage.config import dump
from raystage.config.reference import key_table
from raystage.tracking.records import RunRecords
from tests.training.made_run import configure


@dataclasses.dataclass(frozen=True)
class Said:
    code: int
    stdout: str
    stderr: str


def raystage(*arguments: str, cwd: Path) -> Said:
    """The command line in this process, as its entry point runs it."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd),
        unittest.mock.patch.object(sys, "argv", ["raystage", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.yaml").write_text(dump(configure(folder, ["name=small", "tracking.mlflow=false", "sample.lines=3"])))
    return folder


def test_help_lists_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = raystage("train", "--help", cwd=tmp_path)
    assert result.code == 0
    for key, *_ in key_table():
        assert key in result.stdout


def test_help_of_studies_lists_the_keys_of_arms_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = raystage("reproduce", "--help", cwd=tmp_path).stdout
    for key in ("trial_share", "sizes.NAME.base", "arms.NAME.budget", "arms.NAME.shares.lengths", "arms.NAME.set"):
        assert key in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.yaml"], ["nowhere.yaml"]),
        (["train", "small.yaml", "pacing.lenghts=[8,32]"], ["pacing.lenghts", "pacing.lengths"]),
        (["train", "small.yaml", "pacing.lengths=[8,64]"], ["pacing.lengths", "64", "model.context_length=32"]),
        (["train", "small.yaml", "model.n_head=5"], ["model.n_head=5", "model.d_model=32"]),
        (["train", "small.yaml", "data.sources.0.path=none/*.txt"], ["none/*.txt"]),
        (["train", "small.yaml", "model.vocab_size=128"], ["model.vocab_size=128"]),
        (["train", "small.yaml", "--engine", "spark"], ["runtime.engine", "spark"]),
        (["train", "small.yaml", "init_from.path=nothing"], ["init_from.path"]),
        (["report", "nothing"], ["nothing"]),
        (["export", "nothing", "out"], ["nothing"]),
        (["generate", "nothing"], ["nothing"]),
        (["runs", "--storage", "nothing"], ["nothing"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folder: Path, arguments: list[str], words: list[str]) -> None:
    result = raystage(*arguments, cwd=folder)
    assert result.code == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words)
    assert not (folder / "runs").exists()


def test_the_verbs_from_text_to_text(folder: Path) -> None:
    assert "4" in raystage("plan", "small.yaml", cwd=folder).stdout
    assert "training" in raystage("prepare", "small.yaml", cwd=folder).stdout
    trained = raystage("train", "small.yaml", cwd=folder)
    assert trained.code == 0, trained.stderr
    assert trained.stderr == ""
    assert "decision 3" in trained.stdout
    again = raystage("train", "small.yaml", cwd=folder)
    assert "is complete" in again.stdout
    table = json.loads((folder / "runs/small/report/samples.json").read_text())
    assert [(sample["temperature"], sample["top_p"]) for sample in table] == [(0, 1.0), (0.7, 1.0), (1.0, 1.0), (1.0, 0.9)] * 2
    assert [bool(sample["prompt"]) for sample in table] == [False] * 4 + [True] * 4
    refused = raystage("train", "small.yaml", "training.optimizer.lr=0.1", cwd=folder)
    assert refused.code == 2
    assert "0.005" in refused.stderr
    assert "report" in raystage("report", "runs/small", cwd=folder).stdout
    assert "small" in raystage("runs", cwd=folder).stdout
    other = folder / "runs" / "of-another-raystage"
    other.mkdir()
    (other / "config.yaml").write_text("pacing: {foo: 1}\n")
    assert {"small", "of-another-raystage"} <= set(raystage("runs", cwd=folder).stdout.split())
    assert raystage("export", "runs/small", "out", cwd=folder).code == 0
    written = raystage("generate", "out", "--prompt", "the loss", "--tokens", "30", cwd=folder)
    assert written.stdout.startswith("the loss")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    config = configure(tmp_path, ["name=long", "tracking.mlflow=false", "training.duration=20000 steps"])
    run_dir = Path(config.storage) / "long"
    (tmp_path / "long.yaml").write_text(dump(config))
    threading.Thread(target=_signal_at_step_40, args=(run_dir / "metrics.jsonl", number)).start()
    stopped = raystage("train", "long.yaml", cwd=tmp_path)
    assert stopped.code == 0
    assert "the same command goes on" in stopped.stdout + stopped.stderr
    last_step = RunRecords.load(run_dir).train[-1]["step"]
    assert int(max(path.name for path in (run_dir / "checkpoints").iterdir()).split("-")[0]) == last_step
    assert 40 <= last_step < 20000


def _signal_at_step_40(metrics: Path, number: signal.Signals) -> None:
    deadline_s = time.monotonic() + 60
    while not metrics.exists() or '"step":40,' not in metrics.read_text():
        if time.monotonic() > deadline_s:
            return
        time.sleep(0.05)
    os.kill(os.getpid(), number)
