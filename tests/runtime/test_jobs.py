"""Packages of jobs, addresses, and a job's log through connections that break."""

import itertools
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import aiohttp
import pytest
import yaml

from raystage.config import Config, ConfigError, from_tree, load
from raystage.runtime import jobs
from raystage.runtime.engine import EngineError
from raystage.runtime.job_package import check_place_in_package, check_places_of_nodes, package_of
from raystage.runtime.secrets_file import load_secrets

PLACES = {"storage": "/shared/runs", "data": {"cache_dir": "s3://bucket/data"}, "tracking": {"mlflow_uri": "http://mlflow:5000"}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "text" / name).write_text(name * 100)
    return tmp_path


def configured(*overrides: str) -> Config:
    return from_tree(PLACES, overrides)


def test_a_package_holds_the_configuration_and_what_it_names_by_relative_paths(here: Path) -> None:
    config = configured("data.sources=[{kind: text, path: 'text/*.txt'}]", "evaluation.lambada=text/a.txt")
    package = package_of(config, excludes=["text/b*"])
    assert package.command == ("train", "config.yaml")
    assert set(package.files) == {"text/a.txt"}
    target = here / "target"
    target.mkdir()
    package.write(target)
    assert load(target / "config.yaml") == config
    assert (target / "text" / "a.txt").read_text() == "a.txt" * 100
    assert package.n_bytes == sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def test_a_search_goes_with_its_base(here: Path) -> None:
    (here / "s.yaml").write_text("name: s\n")
    package = package_of(configured(), search=here / "s.yaml", overrides=["trials.minutes=3"])
    assert package.command == ("tune", "search.yaml", "trials.minutes=3", "base=config.yaml")
    assert yaml.safe_load(package.texts["search.yaml"]) == {"name": "s"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("storage=runs", "storage=runs: is relative"),
        ("data.cache_dir=data", "data.cache_dir=data: is relative"),
        ("tracking.mlflow_uri=sqlite:///mlflow.db", "MLflow at sqlite:///mlflow.db: is relative"),
        ("tracking.mlflow_uri=mlruns", "MLflow at mlruns: is relative"),
        ("tracking.mlflow_uri=null", "MLflow at sqlite:///mlflow.db: is relative"),
        ("data.sources=[{kind: text, path: ../x.txt}]", "no file there"),
        ("init_from.path=runs/a", "init_from.path=runs/a: is relative"),
        ("evaluation.texts=[none.txt]", "none.txt: no file there"),
    ],
)
def test_what_a_job_would_lose_or_not_find_is_refused(here: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        package_of(configured(override))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_files_outside_and_too_many_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    with pytest.raises(ConfigError, match="outside the working folder"):
        package_of(configured("data.sources=[{kind: text, path: ../text/a.txt}]"))
    monkeypatch.chdir(here)
    monkeypatch.setattr("raystage.runtime.job_package._MOST_BYTES", 100)
    with pytest.raises(ConfigError, match=r"text/[ab]\.txt and others: .* MB to take along"):
        package_of(configured("data.sources=[{kind: text, path: 'text/*.txt'}]"))


def test_a_run_on_several_machines_is_refused_relative_storage() -> None:
    with pytest.raises(ConfigError) as error:
        check_places_of_nodes(configured("storage=runs"), {"b", "a"})
    assert str(error.value).startswith(
        "storage=runs: is relative, and the cluster has 2 machines (a, b); give a folder that all nodes share"
    )
    check_places_of_nodes(configured("storage=runs"), {"a"})
    check_places_of_nodes(configured(), {"a", "b"})


def test_a_run_in_an_unpacked_package_is_refused_relative_storage() -> None:
    inside = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123")
    with pytest.raises(ConfigError, match="storage=runs: is relative"):
        check_place_in_package(configured("storage=runs"), inside)
    check_place_in_package(configured("storage=runs"), Path("/home/someone/project"))
    check_place_in_package(configured(), inside)
    from_elsewhere = inside.with_name("s3_bucket_package_zip")
    with pytest.raises(ConfigError, match=r"MLflow at sqlite:///mlflow\.db: is relative"):
        check_place_in_package(configured("tracking.mlflow_uri=null"), from_elsewhere)


def test_the_store_may_be_named_by_the_secrets_on_the_nodes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package_of(configured("tracking.mlflow_uri=null"), has_secrets=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(ConfigError, match="MLflow at mlruns: is relative"):
        package_of(configured("tracking.mlflow_uri=null"), has_secrets=True)


def test_a_tokenizer_goes_along_with_what_names_its_end_of_text(here: Path) -> None:
    (here / "tok").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (here / "tok" / name).write_text("{}")
    package = package_of(configured("data.tokenizer={kind: file, path: tok/tokenizer.json}"), excludes=["*_config.json"])
    assert (list(package.files), package.left_out) == (["tok/tokenizer.json"], ("tok/tokenizer_config.json",))


@pytest.mark.parametrize(
    "address", ["foo://x", "os://x", "http://", "http://a b", "http://u:p@h:1", "http://h:99999", "http://h/$(x)\n", "", "::"]
)
def test_what_is_no_address_is_refused_before_ray_sees_it(address: str) -> None:
    with pytest.raises(ConfigError, match="must be the dashboard of a Ray cluster"):
        jobs.connect(address, insecure=True)


@pytest.mark.parametrize("address", ["10.0.0.1:8265", "http://example.org:8265", "https://head", "http://localhost.example.org"])
def test_another_machine_without_authentication_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ConfigError, match="no token authentication"):
        jobs.connect(address, insecure=False)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://localhost:9", "http://[::1]:9"])
def test_nobody_there_is_one_line(address: str) -> None:
    with pytest.raises(ConfigError, match="no Ray dashboard answers there"):
        jobs.connect(address, insecure=False)


class Dashboard(BaseHTTPRequestHandler):
    """Of a cluster that asks for a token, or does not; `told`: the tokens it was sent."""

    status: int
    told: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.told.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.parametrize("status", [200, 500, 401])
def test_another_machine_that_asks_for_no_token_is_not_told_ours(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 64)
    monkeypatch.setattr(jobs, "_is_loopback", lambda host: False)
    monkeypatch.setattr(Dashboard, "told", [])
    monkeypatch.setattr(Dashboard, "status", status, raising=False)
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        if status == 401:
            jobs._check_guarded(f"http://{address}", address)
        else:
            with pytest.raises(ConfigError, match="asks nobody for a token"):
                jobs.connect(address, insecure=False)
        server.shutdown()
    assert Dashboard.told == [None]


@pytest.mark.parametrize("uri", ["postgresql://h/db?user=u&password=p", "https://h/?api_key=k", "http://u:p@h:5000"])
def test_a_store_with_a_secret_is_not_passed_on(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: holds a password"):
        jobs._environment(None)


def test_a_job_that_has_ended_is_not_stopped() -> None:
    with pytest.raises(ConfigError, match=r"has ended already \(SUCCEEDED\)"):
        jobs.stop(Client(), "job", print)


class Client:
    """A job whose log's connection breaks after each number of pieces in `breaks`."""

    pieces = ("one\n", "two\nth", "ree\n", "four\n")

    def __init__(self, *breaks: int) -> None:
        self._breaks = list(breaks)
        self._errors = itertools.cycle([RuntimeError("WebSocket closed with close code 1006"), aiohttp.ServerDisconnectedError()])

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        last = self._breaks.pop(0) if self._breaks else len(self.pieces)
        for piece in self.pieces[:last]:
            yield piece
        if last < len(self.pieces):
            raise next(self._errors)

    def get_job_status(self, job_id: str) -> Any:
        return SimpleNamespace(value="SUCCEEDED")


def test_a_log_whose_connection_breaks_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_AGAIN_S", 0.0)
    written: list[str] = []
    assert jobs.follow(Client(1, 3, 2), "job", written.append) == "SUCCEEDED"
    assert "".join(written) == "one\ntwo\nthree\nfour\n"


def test_a_log_that_stays_away_ends_the_following_not_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_AGAIN_S", 0.0)
    with pytest.raises(EngineError, match="the job goes on"):
        jobs.follow(Client(*[0] * 40), "job", lambda text: None)


def test_a_cluster_that_cannot_list_its_jobs_is_one_line() -> None:
    def list_jobs() -> None:
        raise RuntimeError("Request failed with status code 500: no.")

    with pytest.raises(EngineError, match="does not answer"):
        jobs.jobs_of(SimpleNamespace(list_jobs=list_jobs))


def test_a_jobs_environment_names_secrets_and_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden")
    environment = jobs._environment("/run/secrets/raystage")
    assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert environment["RAYSTAGE_SECRETS_FILE"] == "/run/secrets/raystage"
    assert "hidden" not in str(environment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@mlflow:5000")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: holds a password") as caught:
        jobs._environment(None)
    assert "hidden" not in str(caught.value)


def test_secrets_become_environment(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("# of MLflow\nMLFLOW_TRACKING_PASSWORD=a=b\n\nKEPT=new\n")
    environment = {"RAYSTAGE_SECRETS_FILE": str(path), "KEPT": "old"}
    load_secrets(environment)
    assert (environment["MLFLOW_TRACKING_PASSWORD"], environment["KEPT"]) == ("a=b", "old")
    path.write_text("hidden words")
    with pytest.raises(ConfigError, match=r"secrets:1: not of the form") as caught:
        load_secrets(environment)
    assert "hidden" not in str(caught.value)
    with pytest.raises(ConfigError, match="it must be there on every node"):
        load_secrets({"RAYSTAGE_SECRETS_FILE": str(tmp_path / "absent")})


def test_only_remedies_that_are_taken_are_named(here: Path) -> None:
    (here / "s.yaml").write_text("name: s\n")
    for override, search, has_uri in (
        (("storage=runs",), None, True),
        (("storage=runs",), here / "s.yaml", False),
        (("storage=runs", "training.strategy=fsdp"), None, False),
        (("init_from.path=runs/a",), None, False),
        (("data.cache_dir=data",), here / "s.yaml", True),
    ):
        with pytest.raises(ConfigError) as caught:
            package_of(configured(*override), search=search)
        assert ("or a URI like s3://bucket/runs" in str(caught.value)) == has_uri
    with pytest.raises(ConfigError, match="takes a path; 'raystage export' brings"):
        configured("init_from.path=s3://bucket/runs/a")
