"""A bench in a process of its own, on all cores: what one sets (threads, memory, libraries) is not there for the next."""

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from raystage.devices.cores import n_cores
from raystage.devices.device import pick_device
from tests.bench.result import Result


def run_fresh(name: str) -> list[Result]:
    """What `run` of the module `tests.bench.NAME` gives."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_run, name).result()


def _run(name: str) -> list[Result]:
    pick_device("cpu").prepare(n_cores(), deterministic=False)
    found = importlib.import_module(f"tests.bench.{name}").run()
    return [found] if isinstance(found, Result) else list(found)
