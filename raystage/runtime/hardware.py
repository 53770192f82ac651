"""What each worker of a run trains on, and what it takes of a cluster."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

import ray
from ray.util.tpu import get_num_tpu_slices, get_tpu_worker_resources

from raystage.config import ConfigError
from raystage.config.schema import Config
from raystage.devices.host_memory import ONE_HEAP
from raystage.runtime.capacity import Node, capacity
from raystage.training.worker_range import all_ranges


@dataclasses.dataclass(frozen=True)
class Hardware:
    """`need`: resources of one worker; `slice_hosts`: of a TPU slice, which takes workers for all of its hosts or for none."""

    device: Literal["cpu", "cuda", "xla"]
    need: Mapping[str, float]
    slice_hosts: int = 1
    topology: str | None = None
    accelerator_type: str | None = None

    @property
    def has_tpus(self) -> bool:
        return "TPU" in self.need

    @property
    def keeps_spares(self) -> bool:
        """Whether its workers may be processes that have imported everything before they are given their device."""
        return self.device == "cpu"

    @property
    def variables(self) -> Mapping[str, str]:
        """What the environment of its workers' processes is to have."""
        return ONE_HEAP if self.device == "cpu" else {}

    def room(self, nodes: Iterable[Node], ours: Mapping[str, int] | None = None) -> int:
        """Workers that the nodes hold, those of `ours` by node included."""
        n_workers = capacity(nodes, self.need, ours or Counter())
        if self.topology is None or self.accelerator_type is None:
            return n_workers
        n_whole = get_num_tpu_slices(self.topology, self.accelerator_type) * self.slice_hosts  # hosts of broken slices hold nobody
        return min(n_workers, n_whole) // self.slice_hosts * self.slice_hosts


def hardware_of(config: Config) -> Hardware:
    """That of a run on the cluster that this process has joined. Raises ConfigError where it is not there."""
    runtime, resources = config.runtime, ray.cluster_resources()
    if runtime.device == "xla":
        wants_tpus = os.environ.get("PJRT_DEVICE", "TPU") == "TPU"
        if runtime.tpu is not None and not wants_tpus:
            raise ConfigError(f"runtime.tpu: is given, and PJRT_DEVICE={os.environ['PJRT_DEVICE']} says otherwise; leave one of them out")
        return _tpus(config) if wants_tpus and (runtime.tpu is not None or "TPU" in resources) else Hardware("xla", {"CPU": 1.0})
    if runtime.device == "cuda" and not resources.get("GPU"):
        raise ConfigError("runtime.device=cuda: needs a GPU a worker, and the cluster has none; use cpu or auto")
    if runtime.device != "cpu" and resources.get("GPU"):
        return Hardware("cuda", {"CPU": 1.0, "GPU": 1.0})
    return Hardware("cpu", {"CPU": 1.0})


def _tpus(config: Config) -> Hardware:
    """A worker takes all chips of its host. Raises ConfigError for a slice that does not fit the workers."""
    tpu, ranges = config.runtime.tpu, all_ranges(config)
    if tpu is None:
        if any(workers.high > 1 for workers in ranges):
            raise ConfigError("runtime.tpu: several workers need a slice; give runtime.tpu={topology: 4x4, accelerator_type: TPU-V6E}")
        chips = max(node["Resources"].get("TPU", 0.0) for node in ray.nodes())
        return Hardware("xla", {"CPU": 1.0, "TPU": chips})
    try:
        n_hosts, need = get_tpu_worker_resources(tpu.topology, tpu.accelerator_type, num_slices=1)
    except ValueError as error:
        raise ConfigError(f"runtime.tpu={{topology: {tpu.topology}, accelerator_type: {tpu.accelerator_type}}}: {error}") from None
    for workers in ranges:
        if n_hosts > 1 and (workers.low, workers.high) != (n_hosts, n_hosts):
            raise ConfigError(f"runtime.workers: a slice of {tpu.topology} has a worker on each of its {n_hosts} hosts; give that number")
    return Hardware("xla", need, n_hosts, tpu.topology, tpu.accelerator_type)
