"""Whether a store holds a run's records, each exactly once."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raystage.tracking.mlflow_mark import load_mark
from raystage.tracking.records import DECISIONS_FILE, METRICS_FILE, Record, read_records

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARED = ("loss", "lr", "grad_norm", "tokens_seen", "flops")


def is_whole(run_dir: Path, uri: str) -> bool:
    """Of the last try at each step, as the run folder has them: losses and rates of training, validation losses, decisions."""
    from mlflow import MlflowClient

    mark, client = load_mark(run_dir), MlflowClient(uri)
    assert mark is not None
    records = read_records(run_dir / METRICS_FILE)
    told = {tag for tag in client.get_run(mark.run_id).data.tags if tag.startswith("decision.")}
    if told != {f"decision.{decision['decision_id']}" for decision in read_records(run_dir / DECISIONS_FILE)}:
        return False
    wanted = {"train": COMPARED, "val": ("val_loss",)}
    return all(_history(client, mark.run_id, key) == _values(records, kind, key) for kind, keys in wanted.items() for key in keys)


def _history(client: "MlflowClient", run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def _values(records: Sequence[Record], kind: str, key: str) -> list[tuple[int, float]]:
    return [(record["step"], float(record[key])) for record in records if record["kind"] == kind]
