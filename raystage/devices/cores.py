"""The cores that this process may use, and the memory that is near them."""

import contextlib
import os
from pathlib import Path

_CGROUPS, _NUMA = Path("/sys/fs/cgroup"), Path("/sys/devices/system/node")


def n_cores() -> int:
    """Cores of the machine, or as many as this process is bound to, or as its container's quota is worth; whole ones, at least one."""
    return max(1, int(min(len(_allowed()), *_quotas())))


def keep_near_memory(place: int, n_here: int) -> None:
    """Keeps this thread, and those that it starts, on the cores of one NUMA node, whose memory what it writes first then comes from.

    `place`: of the `n_here` workers of this machine. Where these do not share out evenly over the nodes, nothing changes.
    """
    with contextlib.suppress(OSError, ValueError):  # where the system forbids it, or says it otherwise, a worker is slower and no more
        nodes = _nodes()
        if len(nodes) > 1 and n_here % len(nodes) == 0:
            os.sched_setaffinity(0, nodes[place * len(nodes) // n_here])


def _allowed() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _quotas() -> list[float]:
    """[cores]; of the container that this process is in, by cgroups of version 2 or 1."""
    found = [float("inf")]
    with contextlib.suppress(OSError, ValueError):  # no such version, or "max": no quota
        quota, period = (_CGROUPS / "cpu.max").read_text().split()
        found.append(int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((_CGROUPS / "cpu" / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        found += [int(quota) / int(period)] * (int(quota) > 0)
    return found


def _nodes() -> list[set[int]]:
    """The cores that this process may use, by NUMA node; empty where the system does not say. Linux lists them as 0-3,8-11."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    texts = (path.read_text() for path in sorted(_NUMA.glob("node[0-9]*/cpulist"), key=lambda path: int(path.parent.name[4:])))
    nodes = ({core for part in text.split(",") if part.strip() for core in _range(part)} for text in texts)
    return [mine for node in nodes if (mine := node & _allowed())]


def _range(part: str) -> range:
    first, _, last = part.strip().partition("-")
    return range(int(first), int(last or first) + 1)
