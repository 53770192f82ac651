"""One thing that a run leaves in MLflow beside its records."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclasses.dataclass(frozen=True)
class Product:
    """`digest`: of its content, by which a later hand-over knows what MLflow has; `send`: to the client, into the run of that id."""

    name: str
    digest: str
    send: "Callable[[MlflowClient, str], None]"


def artifact(path: Path, subfolder: str | None = None) -> Product:
    """A file or folder as an artifact below `subfolder`. Raises FileNotFoundError."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder to upload")

    def send(client: "MlflowClient", run_id: str) -> None:
        upload = client.log_artifacts if path.is_dir() else client.log_artifact
        upload(run_id, str(path), subfolder)

    return Product(f"{subfolder or '.'}/{path.name}", digest_of(path), send)


def digest_of(path: Path) -> str:
    """sha256 over names and contents of a file or folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.relative_to(path.parent).as_posix().encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
