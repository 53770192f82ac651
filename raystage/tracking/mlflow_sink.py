"""A run's record in MLflow, written by the driver alone.

A resumed run continues its MLflow run. Every step is logged once: the mark in the run folder moves right after a batch went
through. Should the driver die between the two, the next start offers that one batch (64 records at most) again; it is equal to
the last digit, so MLflow's databases drop it.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raystage.config.errors import ConfigError
from raystage.config.schema import Tracking
from raystage.tracking import mlflow_client
from raystage.tracking.mlflow_entities import batched, changed_params, decision_tags, metrics_of, params_of, tags_of
from raystage.tracking.mlflow_mark import Mark, load_mark
from raystage.tracking.records import Record
from raystage.tracking.sink import SinkError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, Run

_log = logging.getLogger(__name__)
_RECORDS_A_BATCH = 64  # times 15 metrics: below MLflow's 1,000 a call
_PARAMS_A_BATCH = 100


class MlflowSink:
    """One MLflow run. While the store is unreachable `run_id` may be None; records wait, artifacts too."""

    name = "MLflow"

    def __init__(
        self, run_dir: Path, tracking: Tracking, config_tree: Mapping[str, Any], run_name: str, run_id: str | None, tags: Mapping[str, str]
    ) -> None:
        self._run_dir = run_dir
        self._tracking = tracking
        self._config_tree = config_tree
        self._run_name = run_name
        self._tags = tags
        self._mark = load_mark(run_dir) or (Mark(run_id) if run_id else None)
        self._client: MlflowClient | None = None
        self._start_ms = 0
        self._waiting_artifacts: list[tuple[Path, str | None]] = []
        self._lock = threading.RLock()
        mlflow_client.import_quietly()

    @classmethod
    def open(
        cls,
        run_dir: str | Path,
        tracking: Tracking,
        config_tree: Mapping[str, Any],
        run_name: str,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "MlflowSink":
        """Continues the MLflow run noted in the run folder, else `run_id`, else creates one.

        An unreachable store is one warning, and is tried again with every delivery. Raises ConfigError for a URI or an
        experiment name that MLflow does not know.
        """
        sink = cls(Path(run_dir), tracking, config_tree, run_name, run_id, tags or {})
        try:
            sink._connected()
        except SinkError as error:
            _log.warning("MLflow: %s; the run goes on without it, its records wait in %s", error, run_dir)
        return sink

    @property
    def run_id(self) -> str | None:
        return self._mark.run_id if self._mark else None

    def consume(self, records: Sequence[Record], decisions: Sequence[Record]) -> None:
        """Logs what is not logged yet. Raises SinkError; what went through before is not logged again."""
        from mlflow.exceptions import MlflowException

        with self._lock:
            client, mark = self._connected()
            try:
                new = [record for record in records if mark.is_new(record)]
                for batch in batched(new, _RECORDS_A_BATCH):
                    client.log_batch(mark.run_id, metrics=[metric for record in batch for metric in metrics_of(record, self._start_ms)])
                    self._mark = mark = mark.moved_past(batch)
                    mark.save(self._run_dir)
                for decision_batch in batched(decisions, _PARAMS_A_BATCH):
                    client.log_batch(mark.run_id, tags=decision_tags(decision_batch))
            except (MlflowException, OSError) as error:
                raise SinkError(_first_line(error)) from error

    def log_artifact(self, path: str | Path, subfolder: str | None = None) -> None:
        """Uploads a file or folder. What fails now is one warning, and is tried again with the next artifact and at the end."""
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: no such file or folder to upload")
        with self._lock:
            self._waiting_artifacts.append((Path(path), subfolder))
        self._contained(self._upload, "artifacts wait")

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Closes the MLflow run with `status`; a failure is one warning."""
        if self._waiting_artifacts:
            self._contained(self._upload, "artifacts not uploaded")
        self._contained(lambda client, run_id: client.set_terminated(run_id, status), "run not closed")

    def _contained(self, act: "Callable[[MlflowClient, str], None]", consequence: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            with self._lock:
                client, mark = self._connected()
                act(client, mark.run_id)
        except (SinkError, MlflowException, OSError) as error:
            _log.warning("MLflow: %s (%s)", consequence, _first_line(error))

    def _upload(self, client: "MlflowClient", run_id: str) -> None:
        while self._waiting_artifacts:
            path, subfolder = self._waiting_artifacts[0]
            upload = client.log_artifacts if path.is_dir() else client.log_artifact
            upload(run_id, str(path), subfolder)
            del self._waiting_artifacts[0]

    def _connected(self) -> "tuple[MlflowClient, Mark]":
        if self._client is not None and self._mark is not None:
            return self._client, self._mark
        uri = mlflow_client.tracking_uri(self._tracking)
        from mlflow.exceptions import MlflowException

        try:
            client = mlflow_client.connect(uri)
            run = self._existing_run(client) or self._new_run(client)
            self._describe(client, run)
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
                keys = f"tracking.mlflow_uri={uri!r}, tracking.experiment={self._tracking.experiment!r}"
                raise ConfigError(f"{keys}: refused by MLflow: {_first_line(error)}") from None
            raise SinkError(f"{uri} cannot be used ({_first_line(error)})") from error
        self._client, self._start_ms = client, run.info.start_time
        assert self._mark is not None, "set with the run"
        return client, self._mark

    def _existing_run(self, client: "MlflowClient") -> "Run | None":
        from mlflow.exceptions import MlflowException

        if self._mark is None:
            return None
        try:
            run = client.get_run(self._mark.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage == "deleted":
            _log.warning("MLflow: run %s is not in this store, the whole record goes to a new one", self._mark.run_id)
            return None
        client.update_run(run.info.run_id, status="RUNNING")
        return run

    def _new_run(self, client: "MlflowClient") -> "Run":
        experiment = client.get_experiment_by_name(self._tracking.experiment)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(self._tracking.experiment)
        run = client.create_run(experiment_id, run_name=self._run_name)
        self._mark = Mark(run.info.run_id)
        self._mark.save(self._run_dir)
        return run

    def _describe(self, client: "MlflowClient", run: "Run") -> None:
        logged = run.data.params
        params = params_of(self._config_tree)
        new: list[Param] = [param for param in params if param.key not in logged]
        for batch in batched(new, _PARAMS_A_BATCH):
            client.log_batch(run.info.run_id, params=batch)
        for tags in batched([*tags_of(self._tags), *changed_params(params, logged)], _PARAMS_A_BATCH):
            client.log_batch(run.info.run_id, tags=tags)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
