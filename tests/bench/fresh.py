"""A bench in a process of its own, on all cores: what one sets (threads, memory, libraries) is not there for the next."""

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Literal

import torch

from raystage.devices.cores import n_cores
from raystage.devices.device import pick_device
from tests.bench.result import Result

Where = Literal["cpu", "cuda"]


def run_fresh(name: str, device: Where = "cpu", keeps_memory: bool = True) -> list[Result]:
    """What `run` of the module `tests.bench.NAME` gives, or on a GPU its `run_on_gpu`. `keeps_memory`: as in training; else all that is
    asked for is new, as for a growth, which comes once."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_run, name, device, keeps_memory).result()


def _run(name: str, device: Where, keeps_memory: bool) -> list[Result]:
    if keeps_memory:
        pick_device(device).prepare(n_cores(), deterministic=False)
    else:
        torch.set_num_threads(n_cores())
    module = importlib.import_module(f"tests.bench.{name}")
    found = module.run() if device == "cpu" else module.run_on_gpu()
    return [found] if isinstance(found, Result) else list(found)
