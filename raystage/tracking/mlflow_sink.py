"""A run's record in MLflow, written by the driver alone.

A resumed run continues its MLflow run. Every step is logged once: the mark in the run folder moves right after a batch went
through. Should the driver die between the two, the next start offers that one batch (40 records at most) again; it is equal to
the last digit, so MLflow's databases drop it.
"""

import dataclasses
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystage.config.errors import ConfigError
from raystage.config.schema import Tracking
from raystage.tracking import mlflow_client
from raystage.tracking.mlflow_entities import (
    batched,
    changed_params,
    decision_tags,
    inputs_of,
    metrics_of,
    origin_tags,
    params_of,
    tags_of,
)
from raystage.tracking.mlflow_mark import Mark, Status, load_mark
from raystage.tracking.mlflow_product import Product
from raystage.tracking.provenance import read_provenance
from raystage.tracking.records import Record
from raystage.tracking.sink import SinkError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Param, Run

_log = logging.getLogger(__name__)
_RECORDS_A_BATCH = 40  # times 22 metrics: below MLflow's 1,000 a call
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
        self._store = mlflow_client.absolute_uri(tracking)
        self._mark = load_mark(run_dir, self._store) or (Mark(run_id, store=self._store) if run_id else None)
        self._client: MlflowClient | None = None
        self._start_ms = 0
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

    def connect(self) -> bool:
        """Whether the store can be used now."""
        try:
            self._connected()
        except (SinkError, ConfigError):
            return False
        return True

    def consume(self, records: Sequence[Record], decisions: Sequence[Record]) -> None:
        """Logs what is not logged yet. Raises SinkError; what went through before is not logged again."""
        from mlflow.exceptions import MlflowException

        with self._lock:
            try:
                client, mark = self._connected()
            except ConfigError as error:  # only its first call, which has its caller, is the user's to answer
                raise SinkError(str(error)) from error
            try:
                new = [record for record in records if mark.is_new(record)]
                for batch in batched(new, _RECORDS_A_BATCH):
                    client.log_batch(mark.run_id, metrics=[metric for record in batch for metric in metrics_of(record, self._start_ms)])
                    mark = self._keep(mark.moved_past(batch))
                for decision_batch in batched(decisions, _PARAMS_A_BATCH):
                    client.log_batch(mark.run_id, tags=decision_tags(decision_batch))
            except (MlflowException, OSError) as error:
                raise SinkError(mlflow_client.trouble(error)) from error

    def hand_over(self, products: Sequence[Product], status: Status) -> str | None:
        """Sends the products that MLflow has not in this form, and closes its run with `status`.

        Ends with the first that fails, so that an end waits for one time-out at the most; returns why, else None.
        """
        from mlflow.exceptions import MlflowException

        try:
            with self._lock:
                if self._mark is not None:
                    self._keep(dataclasses.replace(self._mark, status=status))  # for `raystage sync`, should MLflow be away now
                client, mark = self._connected()
                for product in products:
                    if mark.products.get(product.name) != product.digest:
                        product.send(client, mark.run_id)
                        mark = self._keep(mark.with_product(product.name, product.digest))
                client.set_terminated(mark.run_id, status)
        except (SinkError, ConfigError, MlflowException, OSError) as error:
            return mlflow_client.trouble(error)
        except Exception as error:  # whatever a library makes of a damaged product: a run must not fail by what is shown of it
            _log.debug("MLflow: a product failed", exc_info=True)
            return f"{type(error).__name__}: {mlflow_client.trouble(error)}"
        return None

    def _keep(self, mark: Mark) -> Mark:
        self._mark = mark
        mark.save(self._run_dir)
        return mark

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
                raise ConfigError(f"{keys}: refused by MLflow: {mlflow_client.trouble(error)}") from None
            raise SinkError(f"{uri} cannot be used ({mlflow_client.trouble(error)})") from error
        except (ImportError, ValueError) as error:
            raise ConfigError(f"tracking.mlflow_uri={uri!r}: cannot be used: {mlflow_client.trouble(error)}") from None
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
        self._keep(Mark(run.info.run_id, status=self._mark.status if self._mark else None, store=self._store))
        return run

    def _describe(self, client: "MlflowClient", run: "Run") -> None:
        logged = run.data.params
        params = params_of(self._config_tree)
        new: list[Param] = [param for param in params if param.key not in logged]
        for batch in batched(new, _PARAMS_A_BATCH):
            client.log_batch(run.info.run_id, params=batch)
        provenance = read_provenance(self._run_dir)
        all_tags = {**(origin_tags(provenance) if provenance else {}), **self._tags}
        for tags in batched([*tags_of(all_tags), *changed_params(params, logged)], _PARAMS_A_BATCH):
            client.log_batch(run.info.run_id, tags=tags)
        if provenance and not (run.inputs and run.inputs.dataset_inputs):
            client.log_inputs(run.info.run_id, inputs_of(provenance))
