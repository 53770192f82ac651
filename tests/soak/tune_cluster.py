"""Four trials side by side, each with a worker of Ray Train, on a cluster of two nodes: `make soak-tune`.

They end, some of them early; and nothing of them is left behind in the cluster: no placement group, no worker. Exit code 1 where there is.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table
from ray.util.state import list_actors

from raystage.tracking.records import read_records
from tests.tuning.made_search import write_search

COMMAND = [sys.executable, "-c", "from raystage.cli import main; main()", "tune"]
N_POINTS, AT_ONCE = 8, 4
SPACE = {"training.optimizer.lr": {"low": 0.0001, "high": 0.02, "log": True}, "pacing.lengths": [[8, 32], [16, 32]]}


def main() -> None:
    """Runs the search on a cluster of its own."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True})
    cluster.add_node(num_cpus=2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            passed = _search(Path(folder), cluster.address)
    finally:
        ray.shutdown()
        cluster.shutdown()
    raise SystemExit(0 if passed else 1)


def _search(folder: Path, address: str) -> bool:
    path = write_search(
        folder,
        "runtime.engine=ray",
        "runtime.workers=1",
        "validation.every_steps=5",
        space=SPACE,
        overrides={"pacing": {"rule": "linear", "depths": None, "widths": None, "at": None}, "training.duration": "300 steps"},
        strategy={"kind": "asha", "n_points": N_POINTS, "grace": 0.1},
    )
    begin_s = time.perf_counter()
    subprocess.run([*COMMAND, str(path)], cwd=folder, env={**os.environ, "RAY_ADDRESS": address}, check=True, timeout=900)
    print(f"{N_POINTS} trials, {AT_ONCE} at once, in {time.perf_counter() - begin_s:.0f} s")
    records = read_records(folder / "runs" / "made" / "trials.jsonl")
    outcomes = [record["outcome"]["status"] for record in records if record["outcome"]]
    at_once = most = 0
    for record in records:
        at_once += 1 if record["outcome"] is None else -1
        most = max(most, at_once)
    print(f"outcomes: {sorted(outcomes)}; at most {most} at once")
    ray.init(address=address, log_to_driver=False)
    time.sleep(5)  # an actor whose driver has just ended is gone a moment later
    groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    # Ray keeps a coordinator of its own
    alive = [a.class_name for a in list_actors(limit=1000) if a.state == "ALIVE" and not a.class_name.startswith("_")]
    free, total = ray.available_resources().get("CPU"), ray.cluster_resources().get("CPU")
    print(f"placement groups left: {len(groups)}; actors left: {alive}; CPUs free: {free} of {total}")
    return not groups and not alive and free == total and len(outcomes) == N_POINTS and most == AT_ONCE and "failed" not in outcomes


if __name__ == "__main__":
    main()
