"""What `raystage doctor` gathers, as plain values, and the parts of it that a node says about itself."""

import dataclasses
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch

from raystage.devices.cores import n_cores
from raystage.runtime.ray_cluster import has_token_authentication
from raystage.tracking.provenance import versions

_SHARED_MEMORY = Path("/dev/shm")  # nosec B108  # it is measured; nothing is written there


@dataclasses.dataclass(frozen=True)
class NodeFacts:
    """`free_bytes`: of the disks under some folders, by folder; `pjrt`: PJRT_DEVICE; `asks_token`: whether its Ray wants a token."""

    versions: Mapping[str, str]
    n_cpus: int
    gpus: tuple[str, ...]
    pjrt: str | None
    memory_bytes: int
    shared_memory_bytes: int | None
    max_open_files: int
    free_bytes: Mapping[str, int]
    asks_token: bool


@dataclasses.dataclass(frozen=True)
class PlaceFacts:
    """A folder or URI that nodes share. `unwritable`: why, by node; `unread`: pairs (reader, writer) where a file did not arrive."""

    unwritable: Mapping[str, str]
    unread: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What the driver sees of a cluster. `resources`: Ray's, by node; `room`: workers that fit now; `dashboard`: HOST:PORT, or None."""

    address: str
    resources: Mapping[str, Mapping[str, float]]
    room: int
    dashboard: str | None


@dataclasses.dataclass(frozen=True)
class Facts:
    """All that findings are judged from. `cluster`: None on this machine alone; `silent`: nodes without an answer, and why;
    `places`: by key of the configuration; `clocks`: how far [s] each node's clock is off at least, behind below 0;
    `mlflow`: where it is, and what is wrong with it; `data`: whether the corpus is prepared, or why nobody can say."""

    cluster: Cluster | None
    driver_versions: Mapping[str, str]
    nodes: Mapping[str, NodeFacts]
    silent: Mapping[str, str]
    places: Mapping[str, tuple[str, PlaceFacts]]
    clocks: Mapping[str, float]
    mlflow: tuple[str, str | None] | None
    data: bool | str


def node_facts(folders: Sequence[str]) -> NodeFacts:
    """Of the machine that this runs on."""
    return NodeFacts(
        versions=versions(),
        n_cpus=n_cores(),
        gpus=tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())),
        pjrt=os.environ.get("PJRT_DEVICE"),
        memory_bytes=psutil.virtual_memory().available,
        shared_memory_bytes=shutil.disk_usage(_SHARED_MEMORY).total if sys.platform == "linux" and _SHARED_MEMORY.is_dir() else None,
        max_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        free_bytes={folder: shutil.disk_usage(_nearest(Path(folder))).free for folder in folders},
        asks_token=has_token_authentication(),
    )


def clock() -> float:
    """This machine's [s since 1970]."""
    return time.time()


def clock_offset_s(before_s: float, there_s: float, after_s: float) -> float:
    """How far another clock, read between two readings of this one, is off at least: 0 where it may be right."""
    return min(there_s - before_s, 0.0) + max(there_s - after_s, 0.0)


def _nearest(path: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
