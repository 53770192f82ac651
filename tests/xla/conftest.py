"""Two devices of this machine's CPU, as PJRT makes them; in an environment of its own (`make test-xla`)."""

import os
from pathlib import Path

os.environ["PJRT_DEVICE"] = "CPU"
os.environ["CPU_NUM_DEVICES"] = "2"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a word on GSPMD's successor at each compilation

import pytest

from raystage.devices.device import Device, pick_device


@pytest.fixture(scope="session")
def xla(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """Opened before any gradient is taken in this process: torch asks only once which devices there are."""
    return pick_device("xla", cache=None)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, xla: Device) -> Path:
    return tmp_path_factory.mktemp("xla")
