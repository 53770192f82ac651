"""MLflow's client, imported late (it takes seconds) and made quiet."""

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from raystage.config.schema import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"

# A dead server must cost the driver seconds: MLflow's own defaults retry for minutes. What the user has set stays.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(tracking: Tracking) -> str:
    """The configured store, else MLFLOW_TRACKING_URI, else sqlite in the working folder."""
    return tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def absolute_uri(tracking: Tracking) -> str:
    """The same, of use in any working folder of this machine."""
    uri = tracking_uri(tracking)
    path = uri.removeprefix("sqlite:///")
    if path != uri:
        return f"sqlite:///{Path(path).absolute()}"
    return uri if "://" in uri else str(Path(uri).absolute())


def import_quietly() -> None:
    """Imports MLflow, without its usage reports, its log lines below an error, and its hints about git. To be called first."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore", module="mlflow")
    import mlflow  # noqa: F401 - it sets its loggers' levels when imported

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def connect(uri: str) -> "MlflowClient":
    """A client of the store at `uri`; a new sqlite store gets its tables. Raises MlflowException, OSError."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
