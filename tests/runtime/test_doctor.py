"""What `raystage doctor` sees, and what it makes of that."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from raystage.config import Config, from_tree
from raystage.runtime import doctor as doctor_module
from raystage.runtime.doctor import _needs, examine
from raystage.runtime.doctor_facts import Cluster, Facts, NodeFacts, PlaceFacts, clock_offset_s, node_facts
from raystage.runtime.doctor_findings import Finding, Needs, findings, judge_place
from raystage.runtime.doctor_nodes import RayNodes
from raystage.runtime.doctor_place import try_place
from tests.test_cli import raystage

GIB = 2**30
NODE = NodeFacts(
    versions={"python": "3.11.7", "raystage": "0.1.0", "ray": "2.60.0", "torch": "2.13.0"},
    n_cpus=8,
    gpus=(),
    pjrt=None,
    memory_bytes=64 * GIB,
    shared_memory_bytes=8 * GIB,
    max_open_files=65536,
    free_bytes={"/shared/runs": 100 * GIB},
    asks_token=True,
)
GOOD = Facts(
    cluster=Cluster("10.0.0.5:6379", {"a": {"CPU": 8.0}, "b": {"CPU": 8.0}}, room=16, dashboard="127.0.0.1:8265"),
    driver_versions=NODE.versions,
    nodes={"a": NODE, "b": NODE},
    silent={},
    places={"storage": ("/shared/runs", PlaceFacts({}, ())), "data.cache_dir": ("s3://b/d", PlaceFacts({}, ()))},
    clocks={"a": 0.0, "b": 0.4},
    mlflow=("http://h:5000", None),
    data=True,
)
CONFIG, NEEDS = from_tree({"runtime": {"workers": 4}}), Needs(GIB, 4 * GIB)


def with_node(**changes: Any) -> Facts:
    return dataclasses.replace(GOOD, nodes={"a": NODE, "b": dataclasses.replace(NODE, **changes)})


def with_cluster(**changes: Any) -> Facts:
    assert GOOD.cluster is not None
    return dataclasses.replace(GOOD, cluster=dataclasses.replace(GOOD.cluster, **changes))


def test_all_is_well_without_a_remedy() -> None:
    found = findings(GOOD, CONFIG, NEEDS)
    assert {finding.level for finding in found} == {"ok"}
    assert not any(finding.remedy for finding in found)
    assert len({finding.name for finding in found}) == len(found)


OPEN = dataclasses.replace(GOOD, nodes={name: dataclasses.replace(NODE, asks_token=False) for name in "ab"})


@pytest.mark.parametrize(
    ("facts", "name", "level", "words"),
    [
        (dataclasses.replace(GOOD, silent={"c": "no answer within 30 s"}), "nodes", "problem", "c: no answer"),
        (with_node(versions={**NODE.versions, "torch": "2.9.1"}), "versions", "problem", "torch 2.13.0 here, 2.9.1 on b"),
        (with_node(versions={key: value for key, value in NODE.versions.items() if key != "ray"}), "versions", "problem", "none on b"),
        (with_node(gpus=("H100", "H100")), "devices", "warning", "b: 0 GPUs for Ray, 2 for torch"),
        (with_cluster(resources={"a": {"GPU": 1.0}, "b": {}}), "devices", "problem", "a: 1 GPUs for Ray, 0 for torch"),
        (with_cluster(room=3), "workers", "problem", "4 wanted, room for 3"),
        (with_node(free_bytes={"/shared/runs": 3 * GIB}), "disk", "problem", "3.0 GiB free (/shared/runs, b)"),
        (with_node(free_bytes={"/shared/runs": 12 * GIB}), "disk", "warning", "12.0 GiB"),
        (with_node(memory_bytes=GIB - 1), "memory", "problem", "(b)"),
        (with_node(shared_memory_bytes=64 * 2**20), "shared memory", "warning", "0.1 GiB at least (b)"),
        (with_node(max_open_files=1024), "open files", "warning", "1,024"),
        (dataclasses.replace(GOOD, clocks={"a": 0.0, "b": -3.25}), "clocks", "problem", "b: 3.2 s behind"),
        (dataclasses.replace(GOOD, clocks={"a": 1.5}), "clocks", "problem", "a: 1.5 s ahead"),
        (OPEN, "token", "problem", "none asked for on a, b"),
        (dataclasses.replace(OPEN, cluster=with_cluster(address="127.0.0.1:6379").cluster), "token", "problem", "none asked for"),
        (dataclasses.replace(OPEN, cluster=None), "token", "warning", "RAY_AUTH_MODE"),
        (dataclasses.replace(OPEN, cluster=with_cluster(dashboard="10.0.0.5:8265").cluster), "dashboard", "problem", "without a token"),
        (with_cluster(dashboard="10.0.0.5:8265"), "dashboard", "ok", "behind a token"),
        (
            dataclasses.replace(GOOD, mlflow=("http://me:pw@h:5000", "connection refused")),
            "MLflow",
            "problem",
            "http://***@h:5000: connection",
        ),
        (dataclasses.replace(GOOD, mlflow=None), "MLflow", "ok", "off"),
        (dataclasses.replace(GOOD, data=False), "data", "warning", "not prepared"),
        (dataclasses.replace(GOOD, data="x.txt: no file there"), "data", "problem", "x.txt"),
        (dataclasses.replace(GOOD, cluster=None), "workers", "ok", "4 wanted, 16 CPUs"),
    ],
)
def test_findings(facts: Facts, name: str, level: str, words: str) -> None:
    found = {finding.name: finding for finding in findings(facts, CONFIG, NEEDS)}
    finding = found[name]
    assert (finding.level, words in finding.seen, bool(finding.remedy)) == (level, True, level != "ok"), finding


def test_what_a_range_of_workers_needs() -> None:
    config = from_tree({"runtime": {"workers": {"min": 2, "max": 20}}})
    assert next(each for each in findings(GOOD, config, NEEDS) if each.name == "workers").level == "warning"


def test_what_a_model_needs_whose_tokenizer_is_not_looked_into() -> None:
    """The default of tokenizer.vocab_size is of a trained one."""
    config = from_tree({"data": {"tokenizer": {"kind": "file", "path": "tokenizer.json"}}, "model": {"vocab_size": 1024}})
    assert 0 < _needs(config).state_bytes < 10 * GIB


def test_no_gpu_for_a_run_that_wants_one() -> None:
    config = from_tree({"runtime": {"device": "cuda"}})
    assert next(each for each in findings(GOOD, config, NEEDS) if each.name == "devices").level == "problem"


def test_no_answer_at_all_is_one_finding() -> None:
    assert [each.name for each in findings(dataclasses.replace(GOOD, nodes={}, silent={"a": "gone"}), CONFIG, NEEDS)] == ["nodes"]


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        (PlaceFacts({}, ()), "ok", "writable from 2 nodes"),
        (PlaceFacts({"b": "read-only"}, ()), "problem", "read-only on b"),
        (PlaceFacts({}, (("a", "b"), ("b", "a"))), "problem", "a does not see what b writes (2 such pairs)"),
    ],
)
def test_places(found: PlaceFacts, level: str, words: str) -> None:
    finding = judge_place("storage", "s3://k:pw@bucket/runs", found, 2)
    assert finding.level == level
    assert words in finding.seen
    assert "pw" not in finding.seen


@pytest.mark.parametrize(("there_s", "off_s"), [(99.0, -1.0), (100.0, 0.0), (101.0, 0.0), (102.0, 0.0), (105.0, 3.0)])
def test_a_clock_is_off_by_what_no_delay_explains(there_s: float, off_s: float) -> None:
    assert clock_offset_s(100.0, there_s, 102.0) == off_s


def test_this_machine(tmp_path: Path) -> None:
    facts = node_facts([str(tmp_path / "not" / "there")])
    assert facts.n_cpus >= 1
    assert facts.free_bytes[str(tmp_path / "not" / "there")] > 0
    assert facts.versions["ray"] == ray.__version__


def test_the_command_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "text.jsonl").write_text('{"text": "a"}\n')
    source = "data.sources=[{kind: jsonl, path: text.jsonl}]"
    said = raystage("doctor", source, "--json", cwd=tmp_path)
    tree = {finding["name"]: finding["level"] for finding in json.loads(said.stdout)}
    assert tree["storage"] == tree["MLflow"] == tree["nodes"] == "ok"
    assert (tree["data"], said.code) == ("warning", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["text.jsonl"]
    (tmp_path / "runs").write_text("a file in the way")
    said = raystage("doctor", source, cwd=tmp_path)
    assert said.code == 1
    assert said.stderr == "raystage: doctor: 1 problem\n"
    assert "storage: mend permissions" in said.stdout


def test_an_address_where_nothing_listens(tmp_path: Path) -> None:
    began_s = time.monotonic()
    said = raystage("doctor", "--address", "127.0.0.1:9", cwd=tmp_path)
    assert said.code == 1
    assert "Connection refused" in said.stdout
    assert time.monotonic() - began_s < 20


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[RayCluster]:
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.long
def test_two_nodes(two_nodes: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = cluster_config(two_nodes, tmp_path)
    monkeypatch.setattr(doctor_module, "_data", lambda config: True)
    found = {finding.name: finding for finding in examine(config, 60.0)}
    assert found["nodes"].level == found["versions"].level == found["clocks"].level == "ok", found
    assert "2 answered" in found["nodes"].seen
    assert found["storage"] == Finding("storage", "ok", f"{tmp_path}/new/runs: writable from 2 nodes, the same everywhere")
    assert found["workers"].level == "problem"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_place_that_is_another_on_every_node(two_nodes: RayCluster) -> None:
    nodes = RayNodes(60.0)
    found = try_place(nodes, "memory://somewhere")
    assert set(found.unread) == {(reader, writer) for reader in nodes.names for writer in nodes.names if reader != writer}


@pytest.mark.long
def test_a_node_without_an_answer_is_no_hang(two_nodes: RayCluster) -> None:
    RayNodes(60.0).each(_sleep_on, "", named=True)  # their processes have imported this file now
    nodes = RayNodes(3.0)
    slow = nodes.names[0]
    began_s = time.monotonic()
    answers = nodes.each(_sleep_on, slow, named=True)
    assert time.monotonic() - began_s < 30
    assert set(nodes.silent) == {slow}
    assert set(answers) == set(nodes.names) - {slow}
    assert slow not in nodes.each(_sleep_on, "", named=True), "it is not asked again"


def _sleep_on(name: str, sleeper: str) -> str:
    if name == sleeper:
        time.sleep(60)
    return name


def cluster_config(cluster: RayCluster, folder: Path) -> Config:
    return from_tree(
        {
            "storage": str(folder / "new" / "runs"),
            "data": {"cache_dir": str(folder / "data")},
            "runtime": {"address": cluster.address, "workers": 5},
            "tracking": {"mlflow": False},
        }
    )
