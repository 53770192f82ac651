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
    """`git`: of the working folder, where configurations are kept, else of the package; `package`: of raystage's checkout, if any."""
    package = Path(raystage.__file__).parent
    # an installed package may lie in a folder of somebody's repository, which does not track it
    is_tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    of_package = _commit(package, "package") if is_tracked else {"package_commit": None, "package_has_changes": None}
    of_folder = _commit(Path.cwd(), "git")
    if of_folder["git_commit"] is None:
        of_folder = {"git_commit": of_package["package_commit"], "git_has_changes": of_package["package_has_changes"]}
    return {"command": redacted(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])), "user": _user(), **of_folder, **of_package}


def _commit(folder: Path, name: str) -> dict[str, Any]:
    """The commit of a folder's repository, and whether tracked files differ from it; None twice where there is none."""
    commit = _git(folder, "rev-parse", "HEAD")
    has_changes = bool(_git(folder, "status", "--porcelain", "--untracked-files=no")) if commit else None
    return {f"{name}_commit": commit, f"{name}_has_changes": has_changes}


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
