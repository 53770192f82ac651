"""What a run leaves in MLflow beside its records: files, the table of decisions, the trained model. Each goes there once."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raystage.config.schema import Tracking
from raystage.tracking.decision_text import label, reason
from raystage.tracking.mlflow_evaluation import EVALUATIONS, evaluation_product, is_evaluation
from raystage.tracking.mlflow_model import log_model
from raystage.tracking.mlflow_product import Product, artifact, digest_of
from raystage.tracking.provenance import PROVENANCE_FILE
from raystage.tracking.records import DECISIONS_FILE, Record, read_records

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TABLE = "decisions.json"
_TABLES_TAG = "mlflow.loggedArtifacts"  # where MLflow's own log_table notes what its page shows as a table
_COLUMNS = ("decision_id", "effective_step", "tokens_seen", "flops", "time_s", "trigger", "slope", "slope_se", "threshold", "outcome")


def products_of(run_dir: Path, tracking: Tracking) -> list[Product]:
    """Everything in a run folder that belongs into MLflow, the largest last."""
    files = [run_dir / name for name in ("config.yaml", PROVENANCE_FILE)]
    found = [artifact(path) for path in files if path.is_file()]
    if (report := run_dir / "report").is_dir():
        found.append(artifact(report, report.name))
    found += [evaluation_product(path) for path in sorted((run_dir / EVALUATIONS).glob("*.json")) if is_evaluation(path)]
    if decisions := read_records(run_dir / DECISIONS_FILE):
        found.append(_decision_table(decisions))
    model = run_dir / "model"
    if tracking.log_model and model.is_dir():
        found.append(_model(model, tracking.register_as))
    return found


def _decision_table(decisions: Sequence[Record]) -> Product:
    """Whole each time: MLflow's log_table would append to what an earlier attempt has left."""
    rows = [[label(d), reason(d), *(d.get(column) for column in _COLUMNS)] for d in decisions]
    text = json.dumps({"columns": ["decision", "reason", *_COLUMNS], "data": rows})

    def send(client: "MlflowClient", run_id: str) -> None:
        client.log_text(run_id, text, _TABLE)
        shown = json.loads(client.get_run(run_id).data.tags.get(_TABLES_TAG, "[]"))
        entry = {"path": _TABLE, "type": "table"}
        if entry not in shown:
            client.set_tag(run_id, _TABLES_TAG, json.dumps([*shown, entry]))

    return Product(_TABLE, hashlib.sha256(text.encode()).hexdigest(), send)


def _model(folder: Path, registered_name: str | None) -> Product:
    def send(client: "MlflowClient", run_id: str) -> None:
        log_model(client.tracking_uri, run_id, folder, registered_name)

    # another name wants a model version of its own
    return Product("model", f"{digest_of(folder)} {registered_name or ''}", send)
