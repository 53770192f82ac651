"""Dockerfiles and scripts under their linters, dashboards and settings that parse, no secrets, nothing that the README does not name."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.manifests import CLUSTER, ROOT, files, kubernetes_documents

DOCKERFILES = sorted(CLUSTER.glob("**/Dockerfile.*"))
SCRIPTS = files(".sh")
# what stands behind a word of that kind; a reference to a Secret, a variable or a file is none
SECRET = re.compile(r"(?i)(password|passwd|token|secret|_key)[\"']?[ \t]*[:=][ \t]*[\"']?([^\s\"'${},#(]+)")
NO_SECRETS = {"~/.ray/auth_token", "`ray", "Secret", "false", "of", "-", "...", "token"}


def _name(path: Path) -> str:
    return str(path.relative_to(CLUSTER))


def _tool(name: str, *arguments: str) -> str:
    """What a linter finds, installed beside Python."""
    done = subprocess.run([str(Path(sys.executable).with_name(name)), *arguments], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=_name)
def test_dockerfile(path: Path) -> None:
    assert _tool("hadolint", "--no-color", str(path)) == ""
    lines = path.read_text().splitlines()
    assert "USER 1000" in lines, "not as root"
    assert any("-c constraints" in line for line in lines), "from the pin file"
    for line in lines:
        if line.startswith("FROM "):
            assert re.fullmatch(r"FROM python:3\.11\.\d+-slim-bookworm", line)
        for source in line.split()[1:-1] if line.startswith("COPY ") else []:
            assert (ROOT / source).exists(), source


def test_the_linter_of_dockerfiles_sees(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install ray\n")
    assert "DL3006" in _tool("hadolint", "--no-color", str(tmp_path / "Dockerfile"))


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_script(path: Path) -> None:
    assert _tool("shellcheck", str(path)) == ""
    assert path.stat().st_mode & 0o111


def test_the_linter_of_scripts_sees(tmp_path: Path) -> None:
    (tmp_path / "script.sh").write_text("#!/bin/bash\nrm $1/*\n")
    assert "SC2086" in _tool("shellcheck", str(tmp_path / "script.sh"))


@pytest.mark.parametrize("path", files(".json"), ids=_name)
def test_dashboard(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"]
    assert dashboard["panels"]


def test_prometheus_and_grafana_have_what_they_ask_for() -> None:
    scrape = yaml.safe_load((CLUSTER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert all(set(job) == {"job_name", "file_sd_configs"} for job in scrape)
    for kind, key in (("datasources", "datasources"), ("dashboards", "providers")):
        for path in (CLUSTER / "grafana" / "provisioning" / kind).iterdir():
            settings = yaml.safe_load(path.read_text())
            assert settings["apiVersion"] == 1
            assert settings[key]


@pytest.mark.parametrize("path", [path for path in files("") if path.suffix not in (".json", ".pyc")], ids=_name)
def test_no_file_holds_a_secret(path: Path) -> None:
    found = [match.group(0) for match in SECRET.finditer(path.read_text()) if match.group(2) not in NO_SECRETS]
    assert found == []


@pytest.mark.parametrize("line", ["password: hunter2", 'RAY_AUTH_TOKEN="0123abcd"', "--requirepass x token=abc"])
def test_a_secret_would_be_seen(line: str) -> None:
    assert any(match.group(2) not in NO_SECRETS for match in SECRET.finditer(line))


def test_kubernetes_files_refer_to_secrets_and_hold_none() -> None:
    for name, document in kubernetes_documents().items():
        assert document["kind"] != "Secret", name
        for entry in _environment(document):
            if re.search("PASSWORD|TOKEN|SECRET", entry["name"]):
                assert "secretKeyRef" in entry["valueFrom"], (name, entry["name"])


def _environment(part: Any) -> Iterator[dict[str, Any]]:
    """All environment variables of a document, however deep."""
    if isinstance(part, dict):
        yield from (entry for entry in part.get("env", []))
        for value in part.values():
            yield from _environment(value)
    elif isinstance(part, list):
        for value in part:
            yield from _environment(value)


def test_the_readme_names_every_file() -> None:
    readme = (CLUSTER / "README.md").read_text()
    ours = [path for path in files("") if path.suffix != ".pyc" and path.name != "README.md"]
    assert [_name(path) for path in ours if f"({_name(path)})" not in readme] == []
