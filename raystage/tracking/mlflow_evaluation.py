"""Figures of evaluations in the MLflow run that a run folder names."""

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from raystage.config.schema import Tracking
from raystage.tracking import mlflow_client
from raystage.tracking.mlflow_mark import load_mark
from raystage.tracking.mlflow_product import Product, artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVALUATIONS = "evaluations"


def is_evaluation(path: Path) -> bool:
    """Whether it is a file that an evaluation has left: people put others beside them."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(tree["metrics"], dict) and tree["model"]["step"] is not None and isinstance(tree["time"], str)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def evaluation_product(path: Path) -> Product:
    """The file of a result as an artifact, and its figures at the checkpoint's step.

    Their time is that of the measurement: sent twice, they are equal, and MLflow's databases keep one.
    """
    tree = json.loads(path.read_text(encoding="utf-8"))
    time_ms = round(1000 * datetime.datetime.fromisoformat(tree["time"]).timestamp())
    file = artifact(path, EVALUATIONS)

    def send(client: "MlflowClient", run_id: str) -> None:
        from mlflow.entities import Metric

        client.log_batch(run_id, [Metric(key, value, time_ms, tree["model"]["step"]) for key, value in tree["metrics"].items()])
        file.send(client, run_id)

    return Product(file.name, file.digest, send)


def log_evaluations(run_dir: Path, tracking: Tracking, paths: Iterable[Path]) -> str | None:
    """Sends these files and their figures into the run's MLflow run. Returns why not, None where it did.

    It changes nothing else of that run, whose training may still be under way.
    """
    mark, uri = load_mark(run_dir, mlflow_client.absolute_uri(tracking)), mlflow_client.tracking_uri(tracking)
    if mark is None:
        return f"{run_dir} names no MLflow run"
    if mlflow_client.is_missing_file(uri):
        return f"{uri} is not in this folder; run the command where the run was trained, or set MLFLOW_TRACKING_URI"
    mlflow_client.import_quietly()
    from mlflow.exceptions import MlflowException

    try:
        client = mlflow_client.connect(uri)
        for path in paths:
            evaluation_product(path).send(client, mark.run_id)
    except (MlflowException, OSError) as error:
        return f"{uri} cannot be used ({mlflow_client.trouble(error)})"
    return None
