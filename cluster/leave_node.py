"""Tells Ray that this machine will be taken away, and returns once nobody uses its devices, or after `--within` seconds.

The preStop hook of workers: Kubernetes runs it before it ends a pod, on a spot machine that is called back too. raystage's workers see
the drain, finish their step, save and leave, so that no step is trained twice.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray._private import state

_DEVICES = ("GPU", "TPU", "CPU")
_LOOK_EVERY_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    """0 once the node is free, 1 where time ran out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--within", type=int, required=True, help="[s] until the machine is gone")
    within_s = parser.parse_args(arguments).within
    deadline_s = time.monotonic() + within_s
    ray.init(address="auto", log_to_driver=False)
    node_id = ray.get_runtime_context().get_node_id()
    # draining is in no public API of Ray 2.60 but this hidden command
    drain = [str(Path(sys.executable).with_name("ray")), "drain-node", "--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    subprocess.run([*drain, "--reason-message", "the machine is taken away", "--deadline-remaining-seconds", str(within_s)], check=True)
    while time.monotonic() < deadline_s:
        if _is_free(node_id):
            return 0
        time.sleep(_LOOK_EVERY_S)
    return 1


def _is_free(node_id: str) -> bool:
    node = next((node for node in ray.nodes() if node["NodeID"] == node_id and node["Alive"]), None)
    if node is None:
        return True
    free = state.available_resources_per_node().get(node_id, {})
    return all(free.get(name, 0.0) == node["Resources"].get(name, 0.0) for name in _DEVICES)


if __name__ == "__main__":
    sys.exit(main())
