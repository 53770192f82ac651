"""A search killed, stopped and started again finds what one left alone does, with every trial once in MLflow: `make soak-tune`.

Exit code 1 where it does not.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from raystage.config import load
from raystage.tracking.records import read_records
from tests.tuning.made_search import write_search

COMMAND = [sys.executable, "-c", "from raystage.cli import main; main()", "tune"]
KILLS = ((1, signal.SIGKILL), (2, signal.SIGINT), (4, signal.SIGKILL))  # after so many trials have ended
POINTS = {"pacing.lengths": [[8, 32], [16, 32]], "pacing.warmup.fraction": [0.3, 0.5, 0.7]}


def main() -> None:
    """Runs both and compares them."""
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = (_search(Path(folder) / name, kills) for name, kills in (("alone", ()), ("killed", KILLS)))
    for name, found in (("alone", alone), ("killed", killed)):
        children = found["children"]
        print(f"{name}: best {found['best']}; in MLflow {found['parents']} parent, {len(children)} trials of {len(set(children))} names")
    same = alone["best"] == killed["best"] and alone["values"] == killed["values"]
    whole = all(sorted(f["children"]) == sorted(f["values"]) and len(f["values"]) == 6 and f["parents"] == 1 for f in (alone, killed))
    print(f"the same best and the same objectives: {same}; no trial lost or doubled: {whole}")
    raise SystemExit(0 if same and whole else 1)


def _search(folder: Path, kills: tuple[tuple[int, signal.Signals], ...]) -> dict[str, Any]:
    folder.mkdir()
    uri = f"sqlite:///{folder}/mlflow.db"
    path = write_search(folder, "tracking.mlflow=true", f"tracking.mlflow_uri={uri}", space=POINTS, strategy={"kind": "grid"})
    book = folder / "runs" / "made" / "trials.jsonl"
    for n_ended, how in kills:
        process = subprocess.Popen([*COMMAND, str(path)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and sum(record["outcome"] is not None for record in read_records(book)) < n_ended:
            time.sleep(0.05)
        os.kill(process.pid, how)
        process.wait()
        print(f"{how.name} with {sum(record['outcome'] is not None for record in read_records(book))} trials at their end", flush=True)
    subprocess.run([*COMMAND, str(path)], cwd=folder, check=True)
    best = load(folder / "runs" / "made" / "best.yaml").pacing
    client = MlflowClient(uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {
        "best": (best.lengths, best.warmup.fraction),
        "values": {r["trial"]["name"]: r["outcome"]["value"] for r in read_records(book) if r["outcome"]},
        "children": [run.info.run_name for run in runs if "mlflow.parentRunId" in run.data.tags],
        "parents": sum("mlflow.parentRunId" not in run.data.tags for run in runs),
    }


if __name__ == "__main__":
    main()
