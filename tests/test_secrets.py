"""No secret in what leaves the process: found in addresses, put out of sight, refused in configurations."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from raystage.config import ConfigError, dump, from_tree
from raystage.config.names import check_name, is_below
from raystage.config.ray_address import check_address, is_loopback
from raystage.config.redact import holds_secret, redacted
from raystage.runtime.engine import EngineError
from raystage.tracking.sink import SinkError
from raystage.training.manifest import SCHEMA_VERSION, read_manifest
from tests.test_cli import raystage
from tests.training.made_run import configure

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://me:{SECRET}@h:5000/x", "http://***@h:5000/x"),
        (f"see postgresql+psycopg2://me:{SECRET}@db/x.", "see postgresql+psycopg2://***@db/x."),
        (f"postgresql://me:p@{SECRET}@db/x", "postgresql://***@db/x"),
        (f"postgresql://me:p/{SECRET}?#@db/x", "postgresql://***@db/x"),
        (f"https://{SECRET}@h/x", "https://***@h/x"),
        (f"s3://:{SECRET}@b/r", "s3://***@b/r"),
        (f"s3://b/r?X-Amz-Date=1&X-Amz-Signature={SECRET}&x=1", "s3://b/r?X-Amz-Date=1&X-Amz-Signature=***&x=1"),
        (f"'https://h/x?sig={SECRET}'", "'https://h/x?sig=***'"),
        (f"https://h/x?access_token={SECRET}#a", "https://h/x?access_token=***#a"),
        (f"db://h/x?user=me&password={SECRET}", "db://h/x?user=me&password=***"),
        (f"a=ftp://u:{SECRET}@h b=ftp://u:{SECRET}@h", "a=ftp://***@h b=ftp://***@h"),
    ],
)
def test_secrets_are_put_out_of_sight(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert holds_secret(text)
    assert not holds_secret(shown)


@pytest.mark.parametrize(
    "text",
    [
        *("http://h:5000/a:b@c", "sftp://me@h/x", "abfs://box@acc.dfs/x", "sqlite:////tmp/x.db", "training.batch_tokens=8192"),
        *("s3://b/r?versionId=3", "a:b@c", "10.0.0.1:6379", "me@example.org", "https://h/x?q=1&page=2"),
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert not holds_secret(text)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"tracking.mlflow_uri=https://me:{SECRET}@h", ["tracking.mlflow_uri=https://***@h", "MLFLOW_TRACKING_PASSWORD"]),
        (f"storage=s3://key:{SECRET}@b/r", ["storage=s3://***@b/r", "AWS_SECRET_ACCESS_KEY"]),
        (f"data.cache_dir='s3://b/r?X-Amz-Signature={SECRET}'", ["data.cache_dir", "AWS_SECRET_ACCESS_KEY"]),
        (f"evaluation.texts=[a.txt, 'http://me:{SECRET}@h/x']", ["evaluation.texts"]),
        (f"data.sources.0.path=https://me:{SECRET}@h/x", ["data.sources.0.path"]),
        (f"runtime.address=me:{SECRET}@h:1", ["runtime.address", "HOST:PORT"]),
        (f"training.nonsense=http://me:{SECRET}@h", ["training.nonsense"]),
        (f"seed=http://me:{SECRET}@h", ["seed"]),
        (f"seed={'x' * 60} http://me:{SECRET}{'y' * 60}@h", ["seed"]),  # would be cut off in the middle
        (f"http://me:{SECRET}@h", ["override"]),
    ],
)
def test_configurations_with_a_secret_are_refused_without_showing_it(tmp_path: Path, override: str, words: list[str]) -> None:
    (tmp_path / "small.yaml").write_text(dump(configure(tmp_path)))
    said = raystage("train", "small.yaml", override, cwd=tmp_path)
    assert said.code == 2
    assert all(word in said.stderr for word in words), said.stderr
    assert SECRET not in said.stderr + said.stdout
    assert not (tmp_path / "runs").exists()


def test_errors_and_warnings_have_no_secrets() -> None:
    for kind in (ConfigError, EngineError, SinkError):
        assert str(kind(f"http://me:{SECRET}@h is away")) == "http://***@h is away"


RUN = """
import sys
from raystage.cli import main
sys.argv = ["raystage", *sys.argv[1:]]
main()
"""


IN_THE_ENVIRONMENT = {
    "away": {"MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:9"},
    "there": dict.fromkeys(("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"), SECRET),
}


@pytest.mark.long
@pytest.mark.parametrize("name", IN_THE_ENVIRONMENT)
def test_a_run_with_secrets_in_its_environment_leaves_none(tmp_path: Path, name: str) -> None:
    """Everything in the terminal and on disk, MLflow's database too."""
    config = configure(tmp_path, ["tracking.mlflow=true", "training.duration=20 steps", "pacing={rule: table, at: []}", f"name={name}"])
    (tmp_path / "small.yaml").write_text(dump(config))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(tmp_path), **IN_THE_ENVIRONMENT[name]}
    command = [sys.executable, "-c", RUN, "train", "small.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (name == "away") == ("127.0.0.1:9" in done.stdout + done.stderr), done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert (tmp_path / "mlflow.db").is_file() == (name == "there")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_the_command_of_a_run_is_recorded_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raystage.tracking.provenance import read_provenance, write_provenance

    monkeypatch.setattr(sys, "argv", ["/bin/raystage", "train", f"tracking.mlflow_uri=http://me:{SECRET}@h"])
    write_provenance(tmp_path, {}, {})
    assert SECRET not in json.dumps(read_provenance(tmp_path))


def test_trials_are_not_given_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "small.yaml").write_text(dump(configure(tmp_path, ["tracking.mlflow=true", "runtime.engine=ray"])))
    (tmp_path / "search.yaml").write_text("base: small.yaml\nspace: {training.optimizer.lr: [0.001, 0.002]}\nstrategy: {kind: grid}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@h")
    said = raystage("tune", "search.yaml", cwd=tmp_path)
    assert said.code == 2
    assert "MLFLOW_TRACKING_PASSWORD" in said.stderr
    assert SECRET not in said.stderr + said.stdout + caplog.text


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "00000010-1-before-2", "x" * 255])
def test_names(name: str) -> None:
    assert check_name(name, "run") == name


@pytest.mark.parametrize("name", ["a/b", "a", "model-shards/shard-0.safetensors", "..a", "a.."])
def test_paths_below(name: str) -> None:
    assert is_below(name)


@pytest.mark.parametrize("name", ["", "/a", "..", "a/../b", "../a", "a//b", "./a", "a/.", "a\nb", "a\x00"])
def test_paths_that_lead_out(name: str) -> None:
    assert not is_below(name)


def test_a_manifest_names_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "files": {"../../x": "0"}}))
    with pytest.raises(ValueError, match="outside of its folder"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.0.0.5:6379", ("10.0.0.5", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("[::1]:1", ("::1", 1)),
        ("auto", None),
        ("local", None),
    ],
)
def test_addresses(address: str, found: tuple[str, int] | None) -> None:
    assert check_address(address, "runtime.address") == found
    assert from_tree({"runtime": {"address": address}}).runtime.address == address


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "127.0.0.1.example.org", "", "localhost.example.org")))
