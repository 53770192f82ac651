"""Ray Train's backend for XLA devices: PJRT's settings on every worker, and a group between their hosts.

Ray's own TorchXLAConfig starts XRT servers for AWS Neuron. PJRT needs none: libtpu finds the other hosts of its slice by itself.
"""

import dataclasses
import os
import socket
from typing import Any

import ray
import torch.distributed as dist
from ray.train.backend import Backend, BackendConfig

# the driver's, for workers, whose environment is that of their node
_SETTINGS = ("PJRT_DEVICE", "CPU_NUM_DEVICES", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "PT_XLA_DEBUG_LEVEL")


def settings_for(has_tpus: bool) -> dict[str, str]:
    """What this process's environment says of PJRT. The devices are named in any case: where libtpu is missing PJRT would take CPUs."""
    given = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    return given | {"PJRT_DEVICE": "TPU" if has_tpus else given.get("PJRT_DEVICE", "CPU")}


@dataclasses.dataclass
class PjrtConfig(BackendConfig):
    """`settings`: environment variables of PJRT for every worker, to be set before it opens its devices."""

    settings: dict[str, str]

    @property
    def backend_cls(self) -> type[Backend]:
        return PjrtBackend

    def to_dict(self) -> dict[str, Any]:
        return {"settings": self.settings}


class PjrtBackend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Called by Ray Train once the workers' processes are there."""
        assert isinstance(backend_config, PjrtConfig)
        address = worker_group.execute_single(0, _free_address)
        joining = [
            worker_group.execute_single_async(rank, _join, backend_config.settings, address, rank, len(worker_group))
            for rank in range(len(worker_group))
        ]
        ray.get(joining)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _join(settings: dict[str, str], address: str, rank: int, world_size: int) -> None:
    os.environ.update(settings)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
