"""What a whole run leaves in MLflow, when it is trained with it and when it is sent there later."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raystage.config import Config, ConfigError
from raystage.runtime.driver import train
from raystage.runtime.local import LocalEngine
from raystage.runtime.run_folder import RunFolder
from raystage.runtime.sync import sync
from raystage.tracking import mlflow_client
from raystage.tracking.mlflow_client import import_quietly
from raystage.tracking.mlflow_mark import load_mark
from raystage.tracking.records import METRICS_FILE, RunRecords, read_records
from tests.training.made_run import configure

SHORT = ["training.duration=40 steps", "pacing.widths=null", "pacing.at=[0.3, 0.6]"]


def drive(config: Config) -> list[str]:
    said: list[str] = []
    train(config, lambda: LocalEngine(config.runtime), lambda *_: None, said.append)
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def uri(folder: Path) -> str:
    import_quietly()
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(uri).create_experiment("test", artifact_location=str(folder / "artifacts"))
    return uri


@pytest.fixture(scope="module")
def tracked(folder: Path, uri: str) -> Config:
    tracking = ["tracking.mlflow=true", f"tracking.mlflow_uri={uri}", "tracking.experiment=test", "tracking.register_as=made"]
    config = configure(folder, [*SHORT, "name=tracked", "tracking.system_every_s=0.001", *tracking])
    before = os.environ.get("MLFLOW_TRACKING_URI")
    assert drive(config) == []
    assert os.environ.get("MLFLOW_TRACKING_URI") == before, "the next run of this process would go to another store"
    return config


def in_mlflow(config: Config, uri: str) -> tuple[Any, Any]:
    """The client, and the run."""
    from mlflow import MlflowClient

    mark = load_mark(RunFolder.of(config).path, uri)
    assert mark is not None
    return MlflowClient(uri), MlflowClient(uri).get_run(mark.run_id)


def test_inputs_versions_commit_and_system_metrics(tracked: Config, uri: str) -> None:
    client, run = in_mlflow(tracked, uri)
    inputs = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert set(inputs) == {"training", "validation", "tokenizer"}
    manifest = next((RunFolder.of(tracked).path / "checkpoints").glob("*-end/manifest.json")).read_text()
    assert f'"corpus_digest": "{inputs["training"].digest}' in manifest
    import torch

    assert run.data.tags["version.torch"] == torch.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    assert run.data.tags["mlflow.source.git.commit"] == head.strip()
    sampled = [r["step"] for r in read_records(RunFolder.of(tracked).path / METRICS_FILE) if r["kind"] == "system"]
    assert len(sampled) > 5
    assert [m.step for m in client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")] == sampled
    assert run.data.metrics["system/process_memory_usage_megabytes"] > 50
    assert run.info.status == "FINISHED"


def test_the_model_is_registered_and_writes(tracked: Config, uri: str, folder: Path) -> None:
    """In a process of its own, which has only MLflow."""
    code = (
        "import mlflow; mlflow.set_tracking_uri(__import__('sys').argv[1]); model = mlflow.pyfunc.load_model('models:/made/1');"
        "texts = model.predict(['the loss', 'a model'], params={'max_new_tokens': 3});"
        "assert len(texts) == 2 and texts[0].startswith('the loss') and texts[1].startswith('a model'), texts;"
        "assert model.input_example is not None and model.metadata.signature.params is not None;"
        "print(type(mlflow.transformers.load_model('models:/made/1')).__name__)"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, uri], env=environment, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "TextGenerationPipeline"


def test_a_run_that_is_all_there_is_not_sent_again(tracked: Config, uri: str) -> None:
    client, run = in_mlflow(tracked, uri)
    sync(str(RunFolder.of(tracked).path), [], lambda line: None)
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 40
    assert len(client.search_model_versions("name='made'")) == 1


def test_a_run_without_mlflow_is_sent_later(folder: Path, uri: str) -> None:
    config = configure(folder, [*SHORT, "name=later"])
    drive(config)
    run_dir, said = RunFolder.of(config).path, list[str]()
    assert load_mark(run_dir) is None
    sync(str(run_dir), [f"tracking.mlflow_uri={uri}", "tracking.experiment=test"], said.append)
    client, run = in_mlflow(config, uri)
    records = RunRecords.load(run_dir)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [record["step"] for record in records.train]
    assert [m.value for m in client.get_metric_history(run.info.run_id, "val_loss")] == [record["val_loss"] for record in records.val]
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "provenance.json", "decisions.json", "report"} <= artifacts
    assert run.outputs.model_outputs
    assert said == [f"MLflow has all of 'later': run {run.info.run_id} in {uri}"]
    assert run.info.status == "FINISHED"


def test_a_store_that_is_away_ends_the_run_in_time_and_says_what_to_do(folder: Path) -> None:
    config = configure(folder, [*SHORT, "name=alone", "tracking.mlflow=true", "tracking.mlflow_uri=http://127.0.0.1:9"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("raystage.runtime.driver._LAST_DELIVERY_S", 1.0)
        said = drive(config)
    path = RunFolder.of(config).path
    assert said == [f"MLflow: incomplete (records are left over); nothing is lost: 'raystage sync {path}' sends the rest"]
    assert len(RunRecords.load(path).train) == 40


def test_a_run_at_a_uri_is_sent_from_any_machine_once_it_has_ended(folder: Path, uri: str) -> None:
    there = f"file://{folder}/there"
    config = configure(folder, [*SHORT, "name=far", f"storage={there}", f"storage_cache={folder}/one"])
    drive(config)
    to = [f"tracking.mlflow_uri={uri}", "tracking.experiment=test"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("raystage.runtime.sync.Config", lambda: config_with_cache(config, str(folder / "two")))
        said: list[str] = []
        sync(f"{there}/far", to, said.append)
        assert said[0].startswith("MLflow has all of 'far'")
        shutil.rmtree(next((folder / "there" / "far" / "checkpoints").glob("*-end")))
        with pytest.raises(ConfigError, match="is being trained on another machine"):
            sync(f"{there}/far", to, said.append)
        with pytest.raises(ConfigError, match="no such run"):
            sync(f"{there}/absent", to, said.append)


def config_with_cache(config: Config, cache: str) -> Config:
    return dataclasses.replace(config, storage_cache=cache)


def test_a_run_in_two_stores_is_whole_and_once_in_each(folder: Path, uri: str, tmp_path: Path) -> None:
    config = configure(folder, [*SHORT, "name=both"])
    drive(config)
    run_dir, other = str(RunFolder.of(config).path), f"sqlite:///{tmp_path}/other.db"
    for store in (uri, other, uri, other):
        sync(run_dir, [f"tracking.mlflow_uri={store}", "tracking.experiment=test", "tracking.log_model=false"], lambda line: None)
    for store in (uri, other):
        client = in_mlflow(config, store)[0]
        experiment = client.get_experiment_by_name("test").experiment_id
        (found,) = client.search_runs([experiment], "attributes.run_name = 'both'")
        assert len(client.get_metric_history(found.info.run_id, "loss")) == 40


@pytest.mark.parametrize(
    ("run", "override", "message"),
    [
        ("absent", "tracking.experiment=x", "no run folder"),
        ("tracked", "seed=3", "only keys of tracking"),
        ("tracked", "tracking.x=3", "x"),
    ],
)
def test_refusals(tracked: Config, run: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sync(str(RunFolder.of(tracked).path.parent / run), [override], print)


def test_a_run_that_works_here_is_sent_from_its_own_records(folder: Path, uri: str) -> None:
    """Which may be newer than the copy there, and may be written just now."""
    there = f"file://{folder}/there"
    config = configure(folder, [*SHORT, "name=here", f"storage={there}", f"storage_cache={folder}/one"])
    drive(config)
    metrics = RunFolder.of(config).path / "metrics.jsonl"
    (folder / "there" / "here" / "metrics.jsonl").write_text("")
    before = metrics.stat().st_ino, metrics.read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("raystage.runtime.sync.Config", lambda: config_with_cache(config, str(folder / "one")))
        sync(f"{there}/here", [f"tracking.mlflow_uri={uri}", "tracking.experiment=test"], lambda line: None)
        assert (metrics.stat().st_ino, metrics.read_bytes()) == before
        with RunFolder.of(config).locked(), pytest.raises(ConfigError, match="another process is training this run"):
            sync(f"{there}/here", [f"tracking.mlflow_uri={uri}"], lambda line: None)


def test_a_database_that_cannot_be_opened_is_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # or it would wait for a hundred seconds
    said = mlflow_client.ask(f"sqlite:///{tmp_path}")  # a folder
    assert said is not None
    assert "unable to open database file" in said
