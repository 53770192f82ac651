"""How far a run is in MLflow: `mlflow.json` in the run folder, so that a resumed run goes on there and logs no step twice.

A run may be in several stores: it was trained with one, and sent to another by `raystage sync`. The file holds a mark for each.
"""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any, Literal

from raystage.tracking.records import Record

MARK_FILE = "mlflow.json"

Status = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Mark:
    """The MLflow run, the last step logged of each kind of record, and the digest of each product that is there.

    `status`: what the latest attempt wanted the MLflow run to be closed with, null before its end; `store`: the absolute URI.
    """

    run_id: str
    logged: dict[str, int] = dataclasses.field(default_factory=dict)
    products: dict[str, str] = dataclasses.field(default_factory=dict)
    status: Status | None = None
    store: str = ""

    def is_new(self, record: Record) -> bool:
        return bool(record["step"] > self.logged.get(str(record["kind"]), -1))

    def moved_past(self, records: list[Record]) -> "Mark":
        logged = dict(self.logged)
        for record in records:
            kind = str(record["kind"])
            logged[kind] = max(logged.get(kind, -1), record["step"])
        return dataclasses.replace(self, logged=logged)

    def with_product(self, name: str, digest: str) -> "Mark":
        return dataclasses.replace(self, products={**self.products, name: digest})

    def save(self, run_dir: Path) -> None:
        """Atomic. The first store's mark stands at the file's top for ever, those of others under `elsewhere`. Raises OSError."""
        tree = _read(run_dir)
        own = dataclasses.asdict(self)
        if not tree or tree.get("store", "") in ("", self.store):
            tree = {**own, "elsewhere": (tree or {}).get("elsewhere", {})}
        else:
            tree = {**tree, "elsewhere": {**tree.get("elsewhere", {}), self.store: own}}
        fresh = run_dir / f"{MARK_FILE}.new"
        with fresh.open("w") as file:
            json.dump(tree, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, run_dir / MARK_FILE)


def load_mark(run_dir: Path, store: str | None = None) -> Mark | None:
    """The saved mark of the store with that absolute URI, None: of the first; None if there is none."""
    tree = _read(run_dir)
    if tree and store is not None and tree.get("store", "") not in ("", store):
        tree = tree.get("elsewhere", {}).get(store)
    return Mark(**{field.name: tree[field.name] for field in dataclasses.fields(Mark) if field.name in tree}) if tree else None


def _read(run_dir: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads((run_dir / MARK_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        tree = None
    if not isinstance(tree, dict) or not tree.get("run_id"):
        _log.warning("%s is damaged: the run's whole record goes to MLflow as a new run", run_dir / MARK_FILE)
        return None
    return tree
