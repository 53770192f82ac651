"""How far a run is in MLflow: `mlflow.json` in the run folder, so that a resumed run goes on there and logs no step twice."""

import dataclasses
import json
import os
from pathlib import Path

from raystage.tracking.records import Record

MARK_FILE = "mlflow.json"


@dataclasses.dataclass(frozen=True)
class Mark:
    """The MLflow run and the last step logged of each kind of record."""

    run_id: str
    logged: dict[str, int] = dataclasses.field(default_factory=dict)

    def is_new(self, record: Record) -> bool:
        return bool(record["step"] > self.logged.get(str(record["kind"]), -1))

    def moved_past(self, records: list[Record]) -> "Mark":
        logged = dict(self.logged)
        for record in records:
            kind = str(record["kind"])
            logged[kind] = max(logged.get(kind, -1), record["step"])
        return dataclasses.replace(self, logged=logged)

    def save(self, run_dir: Path) -> None:
        """Atomic. Raises OSError."""
        fresh = run_dir / f"{MARK_FILE}.new"
        fresh.write_text(json.dumps(dataclasses.asdict(self)))
        os.replace(fresh, run_dir / MARK_FILE)


def load_mark(run_dir: Path) -> Mark | None:
    """The saved mark; None if there is none."""
    try:
        tree = json.loads((run_dir / MARK_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Mark(run_id=tree["run_id"], logged=tree["logged"])
