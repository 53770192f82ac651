"""Spare worker processes: every node keeps one a worker that has imported everything already, for the group after the next failure.

Imports are most of a restart. Ray gives a new worker any idle process of the same job and runtime environment, but starts one ahead of need
only for itself: the call to a node for it and the variable that names what such a process runs first are Ray's own, and used here alone.
"""

import contextlib
import importlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray.core.generated.common_pb2 import PYTHON  # type: ignore[attr-defined]
from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest  # type: ignore[attr-defined]
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub
from ray.core.generated.runtime_environment_pb2 import RuntimeEnvInfo  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.train.v2._internal.constants import DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE, get_env_vars_to_propagate

from raystage.devices.host_memory import ONE_HEAP
from raystage.runtime.controller_actor import Worker

_KEEP_S = 3600  # then they are asked for anew: those of a run that is over go
_TIMEOUT_S = 5
# the worker's function, and what models and optimizers import when they are made
_MODULES = (
    "raystage.runtime.ray_fit",
    "raystage.runtime.ray_worker",
    "torch._dynamo",
    *(f"transformers.models.{family}.modeling_{family}" for family in ("gpt2", "llama", "qwen3")),
)


class Spares:
    """Of all nodes, over all groups of a run. `after_s`: [s] that a group trains before it gets any; None: no spares, ever."""

    def __init__(self, after_s: float | None) -> None:
        self._after_s = after_s
        self._seen: Mapping[int, Worker] = {}
        self._due_s, self._asked_s = math.inf, -math.inf
        self._n_by_node: Counter[str] = Counter()

    def prepare(self, n_by_node: Mapping[str, int]) -> None:
        """For workers that are about to start on these nodes: they import while Ray Train's controller does."""
        if self._after_s is not None:
            self._top_up(n_by_node, warm_environment())

    def look(self, workers: Mapping[int, Worker]) -> None:
        """Called often, with all workers of a group."""
        if self._after_s is None:
            return
        n_by_node = Counter(worker.node_id for worker in workers.values())
        if workers != self._seen:
            self._seen, self._due_s = dict(workers), time.monotonic() + self._after_s
            self._n_by_node -= n_by_node  # they took what there was
        elif time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + _KEEP_S
            if time.monotonic() - self._asked_s >= _KEEP_S:
                self._n_by_node.clear()  # their time is up
            self._top_up(n_by_node, workers[0].environment)

    def _top_up(self, n_by_node: Mapping[str, int], environment: str) -> None:
        with contextlib.suppress(RayError):  # the cluster has no time for us: a restart takes longer, no more
            addresses = {node["NodeID"]: f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}" for node in ray.nodes() if node["Alive"]}
            for node_id, n in n_by_node.items():
                if node_id in addresses and (n_missing := n - self._n_by_node[node_id]) > 0:
                    _ask_node(addresses[node_id], environment, n_missing)
                    self._n_by_node[node_id], self._asked_s = n, time.monotonic()


def imports_first() -> dict[str, str]:
    """Variables by which a process begins with `import_all`; none where the job has a hook of its own for that."""
    if WORKER_PROCESS_SETUP_HOOK_ENV_VAR in _job_environment().get("env_vars", {}):
        return {}
    # Ray Train adds the second one; named here it cannot be forgotten below
    blocking = {RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE}
    return {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: f"{__name__}.{import_all.__name__}", **blocking}


def warm_environment() -> str:
    """The runtime environment of a worker with spares as Ray spells it: only a process with the very same text is taken."""
    job = _job_environment()
    variables = {**job.get("env_vars", {}), **get_env_vars_to_propagate(), **ONE_HEAP, **imports_first()}
    return json.dumps({**job, "env_vars": variables}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _job_environment() -> dict[str, Any]:
    return dict(ray.get_runtime_context().runtime_env)


def import_all() -> None:
    """Imports what a worker will need."""
    for module in _MODULES:
        with contextlib.suppress(Exception):  # whatever it is, it is met again, and told, where it is needed
            importlib.import_module(module)


def _ask_node(address: str, environment: str, n: int) -> None:
    request = PrestartWorkersRequest(
        language=PYTHON,
        job_id=bytes.fromhex(ray.get_runtime_context().get_job_id()),
        runtime_env_info=RuntimeEnvInfo(serialized_runtime_env=environment),
        keep_alive_duration_secs=_KEEP_S,
        num_workers=n,
    )
    with contextlib.suppress(grpc.RpcError), init_grpc_channel(address) as channel:  # without spares a restart takes longer, no more
        NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=_TIMEOUT_S)
