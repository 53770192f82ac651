"""How much memory processes may still take on this machine, or in the container that they are in."""

import contextlib
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
# limit, use, statistics and the key in them of what the system gives back when asked: version 2, then version 1
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def available_bytes(cgroups: Path = _CGROUPS) -> int:
    """[bytes] of the machine, or of the container where that allows less. Files that were read and are cached count as free."""
    found = [int(psutil.virtual_memory().available)]
    for limit, used, statistics, cached in _FILES:
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such version, or "max": no limit
            most = int((cgroups / limit).read_text())
            told = dict(line.split() for line in (cgroups / statistics).read_text().splitlines())
            found.append(max(0, most - int((cgroups / used).read_text()) + int(told[cached])))
    return min(found)
