"""The processes of Ray Train's workers, also of those that never came to say where they are.

Ray's public list of actors needs a dashboard; the one behind it, which is in no public API of Ray 2.60, is read here.
"""

import os
import signal
from typing import Any

import ray
from ray._private import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_TIMEOUT_S = 30


def kill_train_workers(controller: Any) -> int:
    """Ends their processes for good, since a frozen one heeds nothing else; how many there were."""
    kill, there = ray.remote(_kill), NodeAffinitySchedulingStrategy
    calls = [
        kill.options(num_cpus=0, max_retries=0, scheduling_strategy=there(node_id, soft=False)).remote(process_id)
        for node_id, process_id in train_workers(controller)
    ]
    ray.wait(calls, num_returns=len(calls), timeout=_TIMEOUT_S)
    return len(calls)


def train_workers(controller: Any) -> list[tuple[str, int]]:
    """Node and process id of each worker of the fits that this process has started; `controller`: an actor that it has started too."""
    actors = state.state.actor_table(None, None, None)
    ours = actors[controller._actor_id.hex()]["OwnerAddress"]
    fits = [actor["Address"] for actor in _alive(actors, "TrainController") if actor["OwnerAddress"] == ours]
    return [(actor["Address"]["NodeID"], actor["Pid"]) for actor in _alive(actors, "RayTrainWorker") if actor["OwnerAddress"] in fits]


def _alive(actors: dict[str, Any], class_name: str) -> list[Any]:
    return [actor for actor in actors.values() if actor["ActorClassName"] == class_name and actor["State"] == "ALIVE"]


def _kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)
