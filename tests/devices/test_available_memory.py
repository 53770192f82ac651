"""Memory that is left: a container's limit counts, whichever version of cgroups sets it."""

from pathlib import Path

import psutil
import pytest

from raystage.devices.available_memory import available_bytes

MIB = 2**20


@pytest.mark.parametrize(
    ("names", "cached"),
    [
        (("memory.max", "memory.current", "memory.stat"), "inactive_file"),
        (("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"), "total_inactive_file"),
    ],
)
def test_a_containers_limit_counts_less_what_it_uses_but_for_cached_files(tmp_path: Path, names: tuple[str, ...], cached: str) -> None:
    for name, text in zip(names, (f"{100 * MIB}\n", f"{70 * MIB}\n", f"anon 5\n{cached} {10 * MIB}\n"), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == 40 * MIB


@pytest.mark.parametrize("limit", ["max", str(2**62), None])
def test_without_a_limit_it_is_the_machines(tmp_path: Path, limit: str | None) -> None:
    if limit is not None:
        for name, text in (("memory.max", limit), ("memory.current", "5"), ("memory.stat", "inactive_file 0")):
            (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
