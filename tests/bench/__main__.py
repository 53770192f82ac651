"""All benches but the longest, one after the other: `make bench`. Prints the table and writes bench.json into the working folder.

Each runs in a process of its own, on all cores: what one sets (threads, memory, libraries) is not there for the next.
`--device cuda`: those of a GPU alone; `--nanogpt FOLDER`: a copy of nanoGPT to time in the place of a loop of its shape.
"""

import importlib
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from raystage.devices.cores import n_cores
from raystage.devices.device import pick_device
from tests.bench import bench_peers
from tests.bench.result import Result
from tests.bench.table import Table

# a GPU's machine may have no Ray, which some of these need
ON_CPU = (
    *("bench_step", "bench_controller", "bench_controller_day", "bench_pacing", "bench_records", "bench_growth", "bench_transition"),
    *("bench_save", "bench_prepare", "bench_report", "bench_start", "bench_data_wait", "bench_workers"),
)


def main() -> int:
    """Runs the benches and prints their table."""
    said = bench_peers.arguments().parse_args()
    table = Table(Path("bench.json"), said.device == "cuda")
    for result in bench_peers.run_on_gpu(said.nanogpt) if said.device == "cuda" else _on_cpu(said.nanogpt):
        table.add(result)
    return table.end()


def _on_cpu(nanogpt: Path | None) -> Iterator[Result]:
    for name in ON_CPU:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            yield from fresh.submit(_results, name).result()
    yield from bench_peers.run_small(nanogpt)


def _results(name: str) -> list[Result]:
    """Of one bench, here."""
    pick_device("cpu").prepare(n_cores(), deterministic=False)
    found = importlib.import_module(f"tests.bench.{name}").run()
    return [found] if isinstance(found, Result) else list(found)


if __name__ == "__main__":
    sys.exit(main())
