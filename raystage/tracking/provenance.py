"""Where a run comes from: its text, tokenizer, code and packages, in `provenance.json` of the run folder."""

import getpass
import importlib.metadata
import json
import platform
import subprocess  # nosec B404  # of git, below
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import raystage
from raystage.config.redact import redacted

PROVENANCE_FILE = "provenance.json"
_PACKAGES = ("raystage", "torch", "transformers", "ray", "datasets", "tokenizers", "numpy", "mlflow", "optuna")
_GIT_TIMEOUT_S = 10.0


def write_provenance(run_dir: Path, corpus: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """Writes what the latest attempt runs on. `corpus`: digest, sources and counts; `tokenizer`: sha256, source, entries."""
    tree = {"corpus": dict(corpus), "tokenizer": dict(tokenizer), "code": _code(), "packages": versions()}
    (run_dir / PROVENANCE_FILE).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def read_provenance(run_dir: Path) -> dict[str, Any] | None:
    """What `write_provenance` left; None where there is none."""
    try:
        tree: dict[str, Any] = json.loads((run_dir / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree


def _code() -> dict[str, Any]:
    """Of the repository of the working folder, where configurations are kept; else of the package's own."""
    folders = (Path.cwd(), Path(raystage.__file__).parent)
    folder = next((folder for folder in folders if _git(folder, "rev-parse", "HEAD")), None)
    return {
        "command": redacted(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "user": _user(),
        "git_commit": _git(folder, "rev-parse", "HEAD") if folder else None,
        "git_has_changes": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")) if folder else None,
    }


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None where it is not installed, or the folder belongs to no repository."""
    try:
        # words of our own, no shell, and the git of the user's PATH
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)  # nosec B603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name, as in containers
        return "unknown"


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
