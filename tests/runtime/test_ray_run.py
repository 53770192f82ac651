"""The main job for real: the command line, two Ray Train workers, the controller actor, length raises and both growths."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raystage.config import Config, dump
from raystage.tracking.records import RunRecords
from tests.training.made_run import configure, losses, train_here

COMMAND = [sys.executable, "-c", "from raystage.cli import main; main()"]
N_STEPS = 600
OVERRIDES = [
    "pacing.lengths=[8,16,32]",
    "pacing.at=[0.15,0.3,0.5,0.7]",
    "runtime.engine=ray",
    "runtime.workers=2",
    "tracking.mlflow=true",
    "sample.lines=5",
    f"training.duration={N_STEPS} steps",
    "training.micro_batch_tokens=32",  # slow steps: workers live on for 2 s when their driver is killed, and must not be through
    "training.preflight=true",
    "evaluation.beside_training=true",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunRecords:
    """The same run on one rank, without Ray."""
    return train_here(_config(folder, "alone"))


def _config(folder: Path, name: str, *more: str) -> Config:
    uri = f"sqlite:///{folder}/mlflow.db"
    return configure(folder, [f"name={name}", *OVERRIDES, f"tracking.mlflow_uri={uri}", *more])


def _start(folder: Path, config: Config) -> "subprocess.Popen[str]":
    path = folder / f"{config.name}.yaml"
    path.write_text(dump(config))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [*COMMAND, "train", str(path)], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_two_workers_with_a_kill_in_the_middle_train_as_one_rank_does(folder: Path, alone: RunRecords) -> None:
    config = _config(folder, "two")
    run_dir = Path(config.storage) / "two"
    killed = _start(folder, _config(folder, "two", "runtime.workers=1"))
    _wait_for_decisions(run_dir, 1, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert "end" not in {json.loads(line)["kind"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()[:-1]}
    again = _start(folder, config)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    records = RunRecords.load(run_dir)
    assert [d["kind"] for d in records.decisions] == ["raise_seq_len", "raise_seq_len", "grow_depth", "grow_width"]
    assert [d["effective_step"] for d in records.decisions] == [d["effective_step"] for d in alone.decisions]
    for decision in records.decisions[2:]:
        assert decision["outcome"] == "applied"
        assert math.isclose(decision["probe_before"], decision["probe_after"], rel_tol=1e-5)
    assert [step for step, _ in losses(records)] == list(range(1, N_STEPS + 1))
    for (_, ours), (_, theirs) in zip(losses(records), losses(alone), strict=True):
        assert math.isclose(ours, theirs, rel_tol=1e-4)
    assert [record["world_size"] for record in records.starts] == [1, 2]
    _check_products(run_dir, output)
    _check_evaluation(run_dir, records)
    _check_mlflow(folder, run_dir)


def _wait_for_decisions(run_dir: Path, n: int, process: "subprocess.Popen[str]") -> None:
    path, deadline_s = run_dir / "decisions.jsonl", time.monotonic() + 180
    while not path.exists() or path.read_text().count("\n") < n:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline_s, "no decision in three minutes"
        time.sleep(0.02)


def _check_products(run_dir: Path, output: str) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(run_dir / "model")
    assert (model.config.n_layer, model.config.n_embd) == (2, 32)
    assert "width 16" in (run_dir / "report" / "index.html").read_text()
    assert len((run_dir / "report" / "sample.txt").read_text().splitlines()) == 5
    assert "Traceback" not in output
    assert "WARNING" not in output
    assert "(pid=" not in output, "Ray's own log belongs in its files"


def _check_evaluation(run_dir: Path, records: RunRecords) -> None:
    """A task of Ray measured the last checkpoint as training did, and let go of it."""
    (file,) = (run_dir / "evaluations").glob("*-end-validation-*.json")
    tree = json.loads(file.read_text())
    assert math.isclose(tree["results"][0]["loss"], records.val[-1]["val_loss"], rel_tol=1e-5)
    assert tree["model"]["step"] == N_STEPS
    assert not (run_dir / "measuring").exists()


def _check_mlflow(folder: Path, run_dir: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run_id = json.loads((run_dir / "mlflow.json").read_text())["run_id"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert sum(tag.startswith("decision.") for tag in run.data.tags) == 4
    steps = [metric.step for metric in client.get_metric_history(run_id, "loss")]
    assert sorted(steps) == list(range(1, N_STEPS + 1))
    assert {artifact.path for artifact in client.list_artifacts(run_id)} >= {"config.yaml", "report", "evaluations"}
    measured = client.get_metric_history(run_id, "eval/validation-32/loss")
    assert [metric.step for metric in measured][-1] == N_STEPS
    assert run.outputs is not None
    assert run.outputs.model_outputs
