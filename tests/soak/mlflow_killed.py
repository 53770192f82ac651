"""A run whose MLflow server is dead for a third of the time ends like one whose server is well: `make soak-mlflow`.

The same losses to the last bit, training time within 2% (medians over pairs that take turns to be first), and after `raystage sync`
every metric and every decision is in MLflow exactly once. Exit code 1 where that does not hold.

A server that starts takes seconds of several processes from the cores that train. Beside the run whose server is well another one starts,
at the same step, so that what differs is the server's absence alone.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

from raystage.config import to_tree
from raystage.runtime.sync import sync
from raystage.tracking.records import METRICS_FILE, RunRecords
from tests.tracking.mlflow_server import PASSWORD, USER, MlflowServer
from tests.tracking.mlflow_whole import is_whole
from tests.training.made_run import configure, losses

PAIRS, STEPS = 3, 2500
MOST_LONGER = 0.02
RUN = [f"training.duration={STEPS} steps", "validation.every_steps=500", "checkpoint.every_steps=500", "tracking.mlflow=true"]


def main() -> None:
    """Trains the pairs and compares them."""
    os.environ |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = MlflowServer(folder / "server")
        server.start()
        try:
            holds = _compare(folder, server)
        finally:
            server.kill()
    raise SystemExit(0 if holds else 1)


def _compare(folder: Path, server: MlflowServer) -> bool:
    took_s: dict[str, list[float]] = {"well": [], "killed": []}
    same, whole = True, True
    for pair in range(PAIRS):
        runs = {}
        for kind in ("well", "killed") if pair % 2 == 0 else ("killed", "well"):
            runs[kind] = _train(folder, f"{kind}-{pair}", server, kills=kind == "killed")
            took_s[kind].append(RunRecords.load(runs[kind]).ends[-1]["time_s"])
            whole &= _is_whole(runs[kind], server)
        same &= losses(RunRecords.load(runs["well"])) == losses(RunRecords.load(runs["killed"]))
    longer = statistics.median(b / a - 1 for a, b in zip(took_s["well"], took_s["killed"], strict=True))
    print(f"training time [s]: {took_s}; with the server dead for a third of it {longer:+.1%} (allowed {MOST_LONGER:.0%})")
    print(f"losses the same bit by bit: {same}; every metric and decision exactly once after sync: {whole}")
    return same and whole and longer <= MOST_LONGER


def _train(folder: Path, name: str, server: MlflowServer, kills: bool) -> Path:
    """The run's folder, trained by the command line in a process of its own."""
    config = configure(folder, [*RUN, f"name={name}", f"tracking.mlflow_uri={server.uri}"])
    path, run_dir = folder / f"{name}.yaml", Path(config.storage) / name
    path.write_text(yaml.safe_dump(to_tree(config)))
    spare = MlflowServer(folder / "spare")
    beside = threading.Thread(target=_kill_for_a_third if kills else _start_late, args=(run_dir, server if kills else spare), daemon=True)
    beside.start()
    begin_s = time.perf_counter()
    with (folder / f"{name}.log").open("w") as log:
        subprocess.run([sys.executable, "-m", "raystage", "train", str(path)], stdout=log, stderr=log, check=True, cwd=folder)
    print(f"{name}: {time.perf_counter() - begin_s:.0f} s in all", flush=True)
    beside.join()
    spare.kill()
    return run_dir


def _kill_for_a_third(run_dir: Path, server: MlflowServer) -> None:
    """From a third of the steps to two thirds."""
    while _steps_done(run_dir) < STEPS / 3:
        time.sleep(0.2)
    server.kill()
    while _steps_done(run_dir) < 2 * STEPS / 3:
        time.sleep(0.2)
    server.start()


def _start_late(run_dir: Path, spare: MlflowServer) -> None:
    while _steps_done(run_dir) < 2 * STEPS / 3:
        time.sleep(0.2)
    spare.start()


def _steps_done(run_dir: Path) -> int:
    path = run_dir / METRICS_FILE
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(b'"kind":"train"' in line for line in file)


def _is_whole(run_dir: Path, server: MlflowServer) -> bool:
    sync(str(run_dir), [], lambda line: None)
    return is_whole(run_dir, server.uri)


if __name__ == "__main__":
    main()
