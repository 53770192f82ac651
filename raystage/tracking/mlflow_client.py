"""MLflow's client, imported late (it takes seconds) and made quiet."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raystage.config.redact import redacted
from raystage.config.schema import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
DEFAULT_URI = f"{_SQLITE}mlflow.db"

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_PATIENT_S = 60
_TROUBLES = {
    "Connection refused": "connection refused",
    "Read timed out": "no answer in time",
    "ConnectTimeoutError": "no connection in time",
    "NameResolutionError": "unknown host",
    "error 401": "error 401: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "error 403": "error 403: this user may not write there",
}

# A dead server must cost the driver seconds: MLflow's own defaults retry for minutes. What the user has set stays.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    _TIMEOUT: "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(tracking: Tracking) -> str:
    """The configured store, else MLFLOW_TRACKING_URI, else sqlite in the working folder."""
    return tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def absolute_uri(tracking: Tracking) -> str:
    """The same, of use in any working folder of this machine."""
    uri = tracking_uri(tracking)
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"
    return uri if "://" in uri else str(Path(uri).absolute())


def is_missing_file(uri: str) -> bool:
    """Whether it names a database file that is not there: MLflow would make a new, empty one."""
    return uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file()


def import_quietly() -> None:
    """Imports MLflow, without its usage reports, its log lines below an error, and its hints about git. To be called first."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore", module="mlflow")
    import mlflow  # noqa: F401 - it sets its loggers' levels when imported

    # its retries are ours to tell of, once
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Meanwhile an answer is waited for longer: for those who have nothing else to do, with a server that has just started."""
    before = os.environ.get(_TIMEOUT, _ENVIRONMENT[_TIMEOUT])
    os.environ[_TIMEOUT] = str(max(_PATIENT_S, int(before)))
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = before


def trouble(error: Exception) -> str:
    """An error of MLflow's client in a few words: those of the HTTP library around it fill lines."""
    text = str(error).strip().partition("\n")[0]
    for sign, words in _TROUBLES.items():
        if sign in text:
            return words
    return redacted(text)


def connect(uri: str) -> "MlflowClient":
    """A client of the store at `uri`; a new sqlite store gets its tables. Raises MlflowException, OSError."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return MlflowClient(tracking_uri=uri)
    except SQLAlchemyError as error:  # a database that is away, which MLflow lets pass here alone
        raise MlflowException(str(error)) from error


def ask(uri: str) -> str | None:
    """What is wrong with the store at `uri`, after one question; None where it answers."""
    import_quietly()
    from mlflow.exceptions import MlflowException

    try:
        connect(uri).search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        return trouble(error)
    return None
