"""What Linux says of the processor."""

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor(key: str) -> str | None:
    """The value of a key, such as "model name", of the first core; None where nothing is said of it."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return said.get(key) or None
