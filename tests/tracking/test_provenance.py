"""Whose commit a run names: that of the folder it was started in, and that of the package where it runs from a checkout."""

import subprocess
from pathlib import Path

import pytest

import raystage
from raystage.tracking.provenance import read_provenance, write_provenance


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def repository(folder: Path, file: str) -> str:
    """A repository of one file; its commit."""
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text("")
    git(folder, "init", "-q")
    git(folder, "add", file)
    git(folder, "commit", "-q", "-m", "one file")
    return git(folder, "rev-parse", "HEAD")


def code(folder: Path) -> dict[str, object]:
    write_provenance(folder, {}, {})
    tree = read_provenance(folder)
    assert tree is not None
    return {name: tree["code"][name] for name in ("git_commit", "git_has_changes", "package_commit", "package_has_changes")}


def test_the_folder_and_the_package_each_name_their_own_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, folder = tmp_path / "checkout", tmp_path / "mine"
    of_package, of_folder = repository(package, "raystage/__init__.py"), repository(folder, "configs/run.yaml")
    monkeypatch.setattr(raystage, "__file__", str(package / "raystage" / "__init__.py"))
    monkeypatch.chdir(folder)
    (package / "raystage" / "__init__.py").write_text("changed = True\n")
    expected = {"git_commit": of_folder, "git_has_changes": False, "package_commit": of_package, "package_has_changes": True}
    assert code(tmp_path) == expected
    monkeypatch.chdir(tmp_path)
    assert code(tmp_path) == expected | {"git_commit": of_package, "git_has_changes": True}, "a folder of no repository"


def test_an_installed_package_has_no_commit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a virtual environment within somebody's repository."""
    of_folder = repository(tmp_path, "configs/run.yaml")
    (tmp_path / ".venv" / "raystage").mkdir(parents=True)
    monkeypatch.setattr(raystage, "__file__", str(tmp_path / ".venv" / "raystage" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert code(tmp_path) == {"git_commit": of_folder, "git_has_changes": False, "package_commit": None, "package_has_changes": None}
