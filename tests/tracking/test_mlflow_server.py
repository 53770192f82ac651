"""Against a real server over HTTP with basic authentication, killed on the way."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raystage.config import Config, to_tree
from raystage.config.schema import Tracking
from raystage.runtime.engine import EngineError
from raystage.runtime.sync import sync
from raystage.tracking.follower import Follower
from raystage.tracking.mlflow_client import import_quietly
from raystage.tracking.mlflow_mark import Mark, load_mark
from raystage.tracking.mlflow_products import products_of
from raystage.tracking.mlflow_sink import MlflowSink
from raystage.tracking.sink import SinkError
from tests.made_run import made_records, write_lines, write_made_run
from tests.tracking.mlflow_server import PASSWORD, USER, MlflowServer

pytestmark = pytest.mark.long

METRICS, DECISIONS = made_records()
TRAIN = [record for record in METRICS if record["kind"] == "train"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    import_quietly()
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def tracking(server: MlflowServer) -> Tracking:
    return Tracking(mlflow_uri=server.uri, experiment="http")


def opened(run_dir: Path, server: MlflowServer) -> MlflowSink:
    return MlflowSink.open(run_dir, tracking(server), to_tree(Config()), run_dir.name)


def client(server: MlflowServer) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(server.uri)


def assert_whole(server: MlflowServer, run_id: str | None) -> None:
    """Every value of every record at its step, once; every decision."""
    there = client(server)
    for key in ("loss", "lr", "grad_norm", "tokens_seen", "n_layer"):
        history = [(metric.step, metric.value) for metric in there.get_metric_history(run_id, key)]
        assert history == [(record["step"], record[key]) for record in TRAIN]
    tags = there.get_run(run_id).data.tags
    assert sorted(key for key in tags if key.startswith("decision.")) == [f"decision.{d['decision_id']}" for d in DECISIONS]


def test_a_whole_run_with_its_table_of_decisions(tmp_path: Path, server: MlflowServer) -> None:
    run_dir = write_made_run(tmp_path / "whole")
    sink = opened(run_dir, server)
    sink.consume(METRICS, DECISIONS)
    assert sink.hand_over(products_of(run_dir, tracking(server)), "FINISHED") is None
    assert_whole(server, sink.run_id)
    there = client(server)
    table = json.loads(Path(there.download_artifacts(sink.run_id, "decisions.json", str(tmp_path))).read_text())
    assert [row[0] for row in table["data"]] == ["length 32→64", "length 64→128", "depth 2→4", "width 64→128"]
    assert {"path": "decisions.json", "type": "table"} in json.loads(there.get_run(sink.run_id).data.tags["mlflow.loggedArtifacts"])
    assert there.get_run(sink.run_id).info.status == "FINISHED"


def test_a_wrong_password_is_said_and_nothing_is_sent(tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    sink = opened(write_made_run(tmp_path / "stranger"), server)
    with pytest.raises(SinkError, match="401"):
        sink.consume(METRICS, DECISIONS)
    assert sink.run_id is None


def test_a_server_killed_on_the_way_has_everything_once(tmp_path: Path, server: MlflowServer) -> None:
    """The middle third of the records is written while the server is dead; the driver ends before it is back."""
    run_dir = write_made_run(tmp_path / "killed")
    third = len(METRICS) // 3
    write_lines(run_dir / "metrics.jsonl", METRICS[:third])
    sink = opened(run_dir, server)
    follower = Follower(run_dir, [sink], poll_interval_s=0.05)
    follower.start()
    _wait_for(
        lambda: (load_mark(run_dir) or Mark("")).logged.get("train") == max(r["step"] for r in METRICS[:third] if r["kind"] == "train")
    )
    server.kill()
    write_lines(run_dir / "metrics.jsonl", METRICS)
    left = follower.stop(timeout_s=2.0)
    assert left["MLflow"] > 0
    with pytest.raises(EngineError, match=r"connection refused.*nothing is lost"):
        sync(str(run_dir), [f"tracking.mlflow_uri={server.uri}", "tracking.experiment=http"], print)
    server.start()
    said: list[str] = []
    for _ in range(2):
        sync(str(run_dir), [f"tracking.mlflow_uri={server.uri}", "tracking.experiment=http"], said.append)
        assert_whole(server, sink.run_id)
    assert said[0] == f"MLflow has all of 'killed': run {sink.run_id} in {server.uri}"
    assert client(server).get_run(sink.run_id).info.status == "FINISHED", "the records hold the end"


def _wait_for(condition: Any, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
