"""Ray Train's backend for CPUs and XLA devices: a gloo group of the workers, after PJRT's settings on each of them.

Ray's own TorchConfig, which CUDA has, imports torch in Ray Train's controller, where training waits for it, and its TorchXLAConfig starts
XRT servers for AWS Neuron. PJRT needs none: libtpu finds the other hosts of its slice by itself.
"""

import dataclasses
import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

# the driver's, for workers, whose environment is that of their node
_SETTINGS = ("PJRT_DEVICE", "CPU_NUM_DEVICES", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "PT_XLA_DEBUG_LEVEL")


def pjrt_settings(has_tpus: bool) -> dict[str, str]:
    """What this process's environment says of PJRT. The devices are named in any case: where libtpu is missing PJRT would take CPUs."""
    given = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    return given | {"PJRT_DEVICE": "TPU" if has_tpus else given.get("PJRT_DEVICE", "CPU")}


@dataclasses.dataclass
class ProcessGroupConfig(BackendConfig):
    """`settings`: environment variables of every worker, to be set before it opens its devices."""

    settings: dict[str, str]

    @property
    def backend_cls(self) -> type[Backend]:
        return ProcessGroupBackend

    def to_dict(self) -> dict[str, Any]:
        return {"settings": self.settings}


class ProcessGroupBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Called by Ray Train once the workers' processes are there."""
        assert isinstance(backend_config, ProcessGroupConfig)
        address = worker_group.execute_single(0, free_address)
        joining = [
            worker_group.execute_single_async(rank, _join, backend_config.settings, address, rank, len(worker_group))
            for rank in range(len(worker_group))
        ]
        ray.get(joining)


def free_address() -> str:
    """Of this node, for torch.distributed."""
    node = ray.util.get_node_ip_address()
    is_v6 = ":" in node
    with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return f"tcp://{f'[{node}]' if is_v6 else node}:{probe.getsockname()[1]}"


def _join(settings: dict[str, str], address: str, rank: int, world_size: int) -> None:
    os.environ.update(settings)
    import torch.distributed as dist  # whatever comes with it finds the settings

    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
