"""What is read of the processor, and what is not there."""

import platform
from pathlib import Path

import pytest

from raystage.devices import processor as module
from raystage.devices.device import pick_device
from raystage.devices.processor import processor

_TWO_CORES = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9654: 96 cores
power management:

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: another
"""


@pytest.mark.parametrize(
    ("text", "model", "maker"),
    [
        (_TWO_CORES, "AMD EPYC 9654: 96 cores", "AuthenticAMD"),
        ("CPU implementer\t: 0x41\n", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_the_first_core_tells(
    text: str | None, model: str | None, maker: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert (processor("model name"), processor("vendor_id"), processor("power management")) == (model, maker, None)
    assert pick_device("cpu").name == (model or platform.machine())
