"""What Linux says of the processor."""

import itertools
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor(key: str) -> str | None:
    """The value of a key, such as "model name", of the first core; None where nothing is said of it."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    first_core = (line.partition(":") for line in itertools.takewhile(str.strip, lines))
    return {name.strip(): value.strip() for name, _, value in first_core}.get(key) or None
