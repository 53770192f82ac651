"""What the fits of this process hold in the cluster: the processes of their workers, and their placement groups.

Ray's public list of actors needs a dashboard, and its list of placement groups does not say whose they are: the tables behind them, which
are in no public API of Ray 2.60, are read here.
"""

import contextlib
import os
import signal
from typing import Any

import ray
from ray import PlacementGroupID
from ray._private import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_TIMEOUT_S = 30


def kill_train_workers(controller: Any) -> int:
    """Ends their processes for good, since a frozen one heeds nothing else; how many are known to have ended."""
    return _kill_all(train_workers(controller))


def end_fits(controller: Any) -> None:
    """Ends the fits of this process, whatever they are at: workers, those on their way too, end with the controller that owns them."""
    fits = _fits(state.state.actor_table(None, None, None), controller)
    _kill_all([(fit["Address"]["NodeID"], fit["Pid"]) for fit in fits if fit["State"] == "ALIVE"])


def train_workers(controller: Any) -> list[tuple[str, int]]:
    """Node and process id of each worker of the fits that this process has started; `controller`: an actor that it has started too."""
    actors = state.state.actor_table(None, None, None)
    fits = [actor["Address"] for actor in _fits(actors, controller)]
    workers = [actor for actor in actors.values() if actor["ActorClassName"] == "RayTrainWorker" and actor["State"] == "ALIVE"]
    return [(actor["Address"]["NodeID"], actor["Pid"]) for actor in workers if actor["OwnerAddress"] in fits]


def free_resources(controller: Any) -> None:
    """Gives back what fits that are over still hold: a controller of Ray Train that was killed, or whose workers died as they began, leaves
    its placement group behind."""
    _remove_groups({actor["ActorID"] for actor in _fits(state.state.actor_table(None, None, None), controller)})


def free_orphans() -> None:
    """Gives back what fits hold whose controller is gone, whoever started them: a trial that is ended early takes its controller along."""
    actors = state.state.actor_table(None, None, None)
    gone = {a["ActorID"] for a in actors.values() if a["ActorClassName"] == "TrainController" and a["State"] == "DEAD"}
    _remove_groups(gone)


def _remove_groups(creators: set[str]) -> None:
    for record in state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(record)
        if group.creator_actor_id.hex() in creators and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _fits(actors: dict[str, Any], controller: Any) -> list[Any]:
    """The controllers of Ray Train, alive or dead, that belong to the process to which `controller` belongs."""
    owner = actors[controller._actor_id.hex()]["OwnerAddress"]
    return [actor for actor in actors.values() if actor["ActorClassName"] == "TrainController" and actor["OwnerAddress"] == owner]


def _kill_all(processes: list[tuple[str, int]]) -> int:
    """How many are known to have ended."""
    kill, there = ray.remote(_kill), NodeAffinitySchedulingStrategy
    calls = [
        kill.options(num_cpus=0, max_retries=0, scheduling_strategy=there(node_id, soft=False)).remote(process_id)
        for node_id, process_id in processes
    ]
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=_TIMEOUT_S) if calls else ([], [])
    return sum(_succeeded(call) for call in done)


def _succeeded(call: Any) -> bool:
    try:
        ray.get(call)
    except RayError:
        return False
    return True


def _kill(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)
