"""How busy the machine is, sampled now and then by rank 0 as it records its steps. Names and units as in MLflow's system metrics."""

import time
from pathlib import Path
from typing import Any

import psutil
import torch

_MEGABYTE = 1e6


class SystemUsage:
    """`folder`: whose disk is looked at. Network counts from the attempt's begin. A sample takes a millisecond."""

    def __init__(self, every_s: float | None, folder: Path) -> None:
        self._every_s, self._folder = every_s, folder
        self._process = psutil.Process()
        self._sampled_s = time.monotonic()
        self._network = psutil.net_io_counters()
        psutil.cpu_percent()  # the next call tells the mean since this one

    def due_record(self, train: dict[str, Any]) -> dict[str, Any] | None:
        """A record with the clocks of a training step, if it is time for one."""
        now_s = time.monotonic()
        if self._every_s is None or now_s - self._sampled_s < self._every_s:
            return None
        self._sampled_s = now_s
        clocks = {key: train[key] for key in ("step", "tokens_seen", "flops", "time_s", "stage", "attempt")}
        return {"kind": "system", **clocks, "usage": {key: round(value, 1) for key, value in self._usage().items()}}

    def _usage(self) -> dict[str, float]:
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(str(self._folder)), psutil.net_io_counters()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "process_memory_usage_megabytes": self._process.memory_info().rss / _MEGABYTE,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / _MEGABYTE,
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / _MEGABYTE,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / _MEGABYTE,
            **_gpu_usage(),
        }


def _gpu_usage() -> dict[str, float]:
    """Of the GPUs that this process has memory on: asking for another one would take some there. No stream is waited for."""
    if not torch.cuda.is_initialized():
        return {}
    usage = {}
    for index in (index for index in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(index)):
        free, total = torch.cuda.mem_get_info(index)
        usage[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / _MEGABYTE
        usage[f"gpu_{index}_memory_usage_percentage"] = 100 * (total - free) / total
    return usage
