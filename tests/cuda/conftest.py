"""Tests of CUDA devices (`make test-cuda`). RAYSTAGE_CUDA_TESTS_ON=cpu tries the tests themselves where no GPU is at hand."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raystage.devices.cuda import Cuda
from raystage.devices.device import Device, pick_device

DEVICE = os.environ.get("RAYSTAGE_CUDA_TESTS_ON", "cuda")


def pytest_sessionstart() -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA: install the CUDA build"
        pytest.exit(f"the tests of CUDA devices need an NVIDIA GPU, and torch sees none (torch {torch.__version__}, {built})", returncode=1)


@pytest.fixture(scope="session")
def device() -> Device:
    return pick_device("cpu" if DEVICE == "cpu" else "cuda")


@pytest.fixture
def gpu(device: Device) -> Cuda:
    """For what only a GPU has: its memory, its streams, its kernels."""
    if not isinstance(device, Cuda):
        pytest.skip("a trial of the tests on the CPU")
    device.prepare(threads=1, deterministic=False)
    weight = torch.ones(64, 64, device=device.torch_device, requires_grad=True)
    (weight @ weight).sum().backward()  # cuBLAS takes its workspaces, once a thread
    device.free()
    return device


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(autouse=True)
def usual_numerics() -> Iterator[None]:
    """A deterministic run leaves the switch on in this process."""
    yield
    torch.use_deterministic_algorithms(False)
