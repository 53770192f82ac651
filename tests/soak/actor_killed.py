"""A run whose controller actor is killed ten times equals one left alone: `make soak`.

Both train on Ray with one worker, by slope; losses and decisions must be the same to the last bit. Exit code 1 where they are not, or where
the run ended before all kills.
"""

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

from raystage.runtime.assignment import Assignment
from raystage.runtime.controller_actor import controller_name
from raystage.runtime.ray_engine import RayEngine
from raystage.runtime.run_folder import RunFolder
from raystage.tracking.records import METRICS_FILE, RunRecords, read_records
from tests.training.made_run import assign, configure, losses

KILLS = 10
SLOPE = [
    "pacing.rule=slope",
    "pacing.at=null",
    "pacing.confidence=0.5",
    "pacing.settle_tokens=0",
    "pacing.min_dwell_tokens=20000",
    "pacing.min_tokens_per_parameter=0",
    "pacing.thresholds={length: -2.0, depth: -2.0, width: -2.0}",
    "training.schedule={kind: constant, warmup_steps: 0}",
    "growth.rewarm_steps=0",
    "training.duration=1500 steps",
    "runtime.engine=ray",
    "runtime.workers=1",
    "runtime.decision_timeout_s=0.5",
]
COMPARED = ("kind", "effective_step", "trigger", "slope", "threshold", "outcome")


def main() -> None:
    """Trains both and compares them."""
    with tempfile.TemporaryDirectory() as folder:
        (alone, _), (killed, n_killed) = (_train(Path(folder), name, kills) for name, kills in (("alone", 0), ("killed", KILLS)))
    same_decisions = _decisions(alone) == _decisions(killed)
    same_losses = losses(alone) == losses(killed)
    print(f"{len(alone.decisions)} decisions: {[(d['kind'], d['effective_step']) for d in alone.decisions]}")
    print(f"decisions the same: {same_decisions}; {len(losses(alone))} losses the same bit by bit: {same_losses}")
    print(f"the actor was killed {n_killed} times of {KILLS}")
    raise SystemExit(0 if same_decisions and same_losses and len(alone.decisions) == 3 and n_killed == KILLS else 1)


def _train(folder: Path, name: str, kills: int) -> tuple[RunRecords, int]:
    """The records, and how often the actor was killed."""
    config = configure(folder, [f"name={name}", *SLOPE])
    assignment: Assignment = assign(config)
    run = RunFolder(assignment.run_dir)
    engine = RayEngine(config)
    done, begin_s = threading.Event(), time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(_kill, name, run.path / METRICS_FILE, kills, done)
        finished = engine.train(assignment, print)
        done.set()
        n_killed = killer.result()
    ray.shutdown()
    print(f"{name}: finished {finished} in {time.perf_counter() - begin_s:.0f} s")
    return RunRecords.load(run.path), n_killed


def _kill(name: str, metrics: Path, kills: int, done: threading.Event) -> int:
    """Kills the actor, which Ray starts again, once the run is under way, at even distances in its records; how often, before it was
    `done`."""
    killed = 0
    while killed < kills and not done.is_set():
        steps = sum(record["kind"] == "train" for record in read_records(metrics))
        if steps > 100 * (killed + 1):
            ray.kill(ray.get_actor(controller_name(name)), no_restart=False)
            killed += 1
        time.sleep(0.05)
    return killed


def _decisions(records: RunRecords) -> list[tuple[Any, ...]]:
    return [tuple(decision[key] for key in COMPARED) for decision in records.decisions]


if __name__ == "__main__":
    main()
