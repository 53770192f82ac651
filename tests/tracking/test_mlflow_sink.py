import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raystage.config import Config, ConfigError, to_tree
from raystage.config.schema import Tracking
from raystage.tracking.mlflow_client import import_quietly, tracking_uri
from raystage.tracking.mlflow_product import artifact
from raystage.tracking.mlflow_sink import MlflowSink
from raystage.tracking.sink import SinkError
from tests.made_run import MadeStage, made_records

METRICS, DECISIONS = made_records((MadeStage(32, 2, 64, 50), MadeStage(64, 2, 64, 50)))
N_STEPS = 100


FIRST_USE = f"""
import logging, pathlib
logging.basicConfig(level=logging.INFO)
from raystage.config.schema import Tracking
from raystage.tracking.mlflow_product import artifact
from raystage.tracking.mlflow_sink import MlflowSink
sink = MlflowSink.open(pathlib.Path("run"), Tracking(), {{"seed": 1}}, "quiet")
sink.consume({METRICS[1:3]!r}, [])
assert sink.hand_over([], "FINISHED") is None
"""


@pytest.fixture(scope="module")
def first_use(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The working folder of a process that used MLflow for the first time, and what it printed."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "run").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(folder)}
    done = subprocess.run([sys.executable, "-c", FIRST_USE], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def store(first_use: tuple[Path, str]) -> str:
    folder, _ = first_use
    uri = f"sqlite:///{folder}/mlflow.db"
    import_quietly()
    from mlflow import MlflowClient

    MlflowClient(uri).create_experiment("test", artifact_location=str(folder / "artifacts"))
    return uri


@pytest.fixture(params=["sqlite", "files"])
def any_store(request: pytest.FixtureRequest, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow no longer takes it unasked
    return store if request.param == "sqlite" else str(tmp_path / "mlruns")


def opened(run_dir: Path, uri: str, **more: Any) -> MlflowSink:
    run_dir.mkdir(exist_ok=True)
    return MlflowSink.open(run_dir, Tracking(mlflow_uri=uri, experiment="test"), to_tree(Config()), "made", **more)


def steps(uri: str, run_id: str | None, key: str) -> list[int]:
    from mlflow import MlflowClient

    assert run_id is not None
    return [metric.step for metric in MlflowClient(uri).get_metric_history(run_id, key)]


def run_of(uri: str, run_id: str | None) -> Any:
    from mlflow import MlflowClient

    assert run_id is not None
    return MlflowClient(uri).get_run(run_id)


def test_a_whole_run(tmp_path: Path, any_store: str) -> None:
    store = any_store
    sink = opened(tmp_path, store, tags={"host": "h"})
    sink.consume(METRICS, DECISIONS)
    (tmp_path / "config.yaml").write_text("name: made")
    assert sink.hand_over([artifact(tmp_path / "config.yaml", "config")], "FINISHED") is None
    run = run_of(store, sink.run_id)
    assert steps(store, sink.run_id, "loss") == list(range(1, N_STEPS + 1))
    assert steps(store, sink.run_id, "val_loss") == [record["step"] for record in METRICS if record["kind"] == "val"]
    assert {"loss", "lr", "grad_norm", "slope", "tokens_per_s", "val_loss", "stage", "tokens_seen", "flops"} <= set(run.data.metrics)
    assert {"seq_len_tokens", "n_layer", "d_model", "n_parameters"} <= set(run.data.metrics)
    assert "mfu" not in run.data.metrics
    tokens = {record["step"]: record["tokens_seen"] for record in METRICS if record["kind"] == "train"}
    assert steps(store, sink.run_id, "loss_by_tokens") == list(tokens.values())
    assert run.data.metrics["seq_len_tokens"] == 64.0
    assert run.data.params["training.optimizer.lr"] == "0.001"
    assert run.data.params["data.sources.0.kind"] == "stdlib"
    assert run.data.tags["decision.1"].startswith("length 32→64 at step 51 (slope -0.0999")
    assert run.data.tags["host"] == "h"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "made")
    assert list(Path(run.info.artifact_uri).rglob("config.yaml"))


def test_a_resumed_run_goes_on_and_logs_no_step_twice(tmp_path: Path, store: str) -> None:
    first = opened(tmp_path, store)
    first.consume(METRICS[:40], [])
    again = opened(tmp_path, store)
    assert again.run_id == first.run_id
    again.consume(METRICS, DECISIONS)
    replayed_later = [record | {"time_s": record["time_s"] + 9} for record in METRICS if "time_s" in record]
    again.consume(replayed_later, DECISIONS)
    assert steps(store, again.run_id, "loss") == list(range(1, N_STEPS + 1))
    assert run_of(store, again.run_id).info.status == "RUNNING"


def test_a_batch_whose_mark_was_lost_leaves_no_double(tmp_path: Path, store: str) -> None:
    sink = opened(tmp_path, store)
    sink.consume(METRICS[:30], [])
    mark = (tmp_path / "mlflow.json").read_text()
    sink.consume(METRICS, [])
    (tmp_path / "mlflow.json").write_text(mark)
    again = opened(tmp_path, store)
    again.consume(METRICS, [])
    assert steps(store, again.run_id, "loss") == list(range(1, N_STEPS + 1))


def test_run_id_from_elsewhere_is_continued(tmp_path: Path, store: str) -> None:
    first = opened(tmp_path / "a", store)
    second = opened(tmp_path / "b", store, run_id=first.run_id)
    assert second.run_id == first.run_id


def test_changed_values_become_tags(tmp_path: Path, store: str) -> None:
    opened(tmp_path, store)
    tree = to_tree(Config()) | {"seed": 7}
    sink = MlflowSink.open(tmp_path, Tracking(mlflow_uri=store, experiment="test"), tree, "made")
    run = run_of(store, sink.run_id)
    assert (run.data.params["seed"], run.data.tags["changed.seed"]) == ("1234", "1234 -> 7")


def test_long_values_are_cut(tmp_path: Path, store: str) -> None:
    tree = {"data": {"path": "x" * 10_000}} | {f"k{i}": i for i in range(250)}
    sink = MlflowSink.open(tmp_path, Tracking(mlflow_uri=store, experiment="test"), tree, "made", tags={"t": "y" * 10_000})
    run = run_of(store, sink.run_id)
    assert run.data.params["data.path"] == "x" * 5997 + "..."
    assert (len(run.data.params), len(run.data.tags["t"])) == (251, 8000)


def test_a_run_that_was_deleted_begins_anew_with_the_whole_record(tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture) -> None:
    from mlflow import MlflowClient

    first = opened(tmp_path, store)
    first.consume(METRICS, [])
    assert first.run_id is not None
    MlflowClient(store).delete_run(first.run_id)
    again = opened(tmp_path, store)
    again.consume(METRICS, [])
    assert again.run_id != first.run_id
    assert len(steps(store, again.run_id, "loss")) == N_STEPS
    assert "the whole record goes to a new one" in caplog.text


def test_unreachable_at_start_is_one_warning_and_is_made_up_for(tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture) -> None:
    later = tmp_path / "later"
    later.touch()
    sink = opened(tmp_path / "run", f"sqlite:///{later}/mlflow.db")
    (tmp_path / "config.yaml").write_text("x")
    assert sink.run_id is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the run goes on without it" in caplog.text
    with pytest.raises(SinkError, match="cannot be used"):
        sink.consume(METRICS, DECISIONS)
    products = [artifact(tmp_path / "config.yaml")]
    assert "cannot be used" in str(sink.hand_over(products, "FINISHED"))
    later.unlink()
    later.mkdir()
    shutil.copy(store.removeprefix("sqlite:///"), later)
    sink.consume(METRICS, DECISIONS)
    assert sink.hand_over(products, "FINISHED") is None
    assert len(steps(f"sqlite:///{later}/mlflow.db", sink.run_id, "loss")) == N_STEPS
    assert list(Path(run_of(f"sqlite:///{later}/mlflow.db", sink.run_id).info.artifact_uri).rglob("config.yaml"))


def test_a_dead_server_costs_seconds(tmp_path: Path) -> None:
    sink = opened(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(SinkError, match=r"127\.0\.0\.1"):
        sink.consume(METRICS, [])
    assert "127.0.0.1" in str(sink.hand_over([], "FAILED"))


def test_an_unknown_kind_of_store_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.mlflow_uri='foo://bar'"):
        opened(tmp_path, "foo://bar")


def test_an_artifact_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        artifact(tmp_path / "absent")


def test_uri_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert tracking_uri(Tracking(mlflow_uri="http://here")) == "http://here"
    assert tracking_uri(Tracking()) == "http://there"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(Tracking()) == "sqlite:///mlflow.db"


def test_default_store_is_made_in_the_working_folder_without_a_word(first_use: tuple[Path, str]) -> None:
    folder, printed = first_use
    assert printed == ""
    assert (folder / "mlflow.db").exists()
