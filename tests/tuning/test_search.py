"""A search for real: the command, trials side by side under Ray Tune, MLflow, the report; a trial that crashes."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from raystage.config import ConfigError, load
from raystage.tracking.records import read_records
from raystage.tuning import search
from raystage.tuning.search import keep_settings
from raystage.tuning.trial_config import Trial
from tests.made_run import write_made_run
from tests.tuning.made_search import made_search, write_search

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-c", "from raystage.cli import main; main()", "tune"]
SPACE = {"training.optimizer.lr": [0.005, 0.02, 0.04], "pacing.lengths": [[16, 32]]}
CRASHING = Trial.of((("training.optimizer.lr", "0.04"), ("pacing.lengths", "[16, 32]")), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


def tune(folder: Path, path: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.run(
        [*COMMAND, str(path), *overrides], cwd=folder, env=environment, text=True, capture_output=True, timeout=280, check=False
    )


def test_a_search_from_its_begin_to_the_configuration_to_train_with(folder: Path) -> None:
    uri = f"sqlite:///{folder}/mlflow.db"
    path = write_search(
        folder,
        "tracking.mlflow=true",
        f"tracking.mlflow_uri={uri}",
        space=SPACE,
        strategy={"kind": "asha", "n_points": 3, "grace": 0.3},
    )
    home = folder / "runs" / "made"
    (home / "trials").mkdir(parents=True)
    (home / "trials" / CRASHING.name).write_text("no folder for a run")
    ran = tune(folder, path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    outcomes = {r["trial"]["name"]: r["outcome"] for r in read_records(home / "trials.jsonl") if r["outcome"]}
    assert sorted(outcome["status"] for outcome in outcomes.values()) in (["done", "done", "failed"], ["done", "ended early", "failed"])
    best = load(home / "best.yaml")
    assert best.training.optimizer.lr in (0.005, 0.02)
    assert best.pacing.lengths == (16, 32)
    assert best.training.stop_at is None
    assert f"best:   {home / 'best.yaml'}" in ran.stdout

    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "raystage"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name for run in children} == set(outcomes) - {CRASHING.name}, "it never came to have a run"
    assert outcomes[CRASHING.name]["status"] == "failed"
    assert parent.info.status == "FINISHED"
    assert sorted(run.info.status for run in children) in (["FINISHED", "FINISHED"], ["FINISHED", "KILLED"])
    (marked,) = [run for run in children if run.data.tags["raystage.best"] == "true"]
    assert float(marked.data.tags["point.training.optimizer.lr"]) == best.training.optimizer.lr
    assert marked.data.metrics["objective"] == pytest.approx(outcomes[marked.info.run_name]["value"])
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"best.yaml", "report"}

    points = json.loads((home / "report" / "points.json").read_text())["points"]
    assert len(points) == 3
    assert [point["chosen"] for point in points].count(True) == 1
    page = (home / "report" / "index.html").read_text()
    assert "its trial failed" in page


def test_a_search_goes_on_as_it_began(tmp_path: Path) -> None:
    """Other limits of its trials may do; other settings need another name, once a trial was begun."""
    settings = made_search(tmp_path)
    keep_settings(tmp_path, *settings)
    keep_settings(tmp_path, *made_search(tmp_path, strategy={"kind": "grid"}))
    keep_settings(tmp_path, *settings)
    (tmp_path / "trials.jsonl").write_text("{}\n")
    keep_settings(tmp_path, *made_search(tmp_path, trials={"max_concurrent": 3}))
    keep_settings(tmp_path, *made_search(tmp_path, "runtime.address=other:6379", "tracking.mlflow_uri=http://other:5000"))
    written = json.loads((tmp_path / "search.json").read_text())
    (tmp_path / "search.json").write_text(json.dumps({key: value for key, value in written.items() if key != "training.optimizer.eps"}))
    keep_settings(tmp_path, *settings)  # of a raystage that did not know the key yet: it had what is its default
    with pytest.raises(ConfigError, match=r"training.optimizer.eps=1e-07: search 'made' began with 1e-08; keep that value"):
        keep_settings(tmp_path, *made_search(tmp_path, "training.optimizer.eps=1e-7"))
    with pytest.raises(ConfigError, match=r"seed=7: search 'made' began with \d+; keep that value"):
        keep_settings(tmp_path, *made_search(tmp_path, "seed=7"))
    with pytest.raises(
        ConfigError, match=r"search.strategy.kind=grid: search .* began with .*; keep that value, choose another name, or move"
    ):
        keep_settings(tmp_path, *made_search(tmp_path, strategy={"kind": "grid"}))


def test_tune_is_told_of_the_seed_that_it_compares_alone(tmp_path: Path) -> None:
    trials = {f"t{seed}": Trial.of((("seed", "0"),), seed) for seed in (3, 4)}
    for name in trials:
        write_made_run(tmp_path / name)
    book = types.SimpleNamespace(trials=trials, outcomes=trials)
    configs = types.SimpleNamespace(folder_of=lambda trial: tmp_path / next(name for name, each in trials.items() if each is trial))
    past: Any = search._past
    assert list(past(book, configs, 4)) == ["t4"]
