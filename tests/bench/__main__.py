"""All benches but the longest, one after the other: `make bench`. Prints the table and writes bench.json into the working folder.

`--device cuda`: those of a GPU alone; `--nanogpt FOLDER`: a copy of nanoGPT to time in the place of a loop of its shape.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench import bench_peers
from tests.bench.fresh import run_fresh
from tests.bench.result import Result
from tests.bench.table import Table

# a GPU's machine may have no Ray, which some of these need
ON_CPU = (
    "bench_step",
    "bench_controller",
    "bench_controller_day",
    "bench_pacing",
    "bench_records",
    "bench_transition",
    "bench_save",
    "bench_prepare",
    "bench_report",
    "bench_start",
    "bench_data_wait",
    "bench_workers",
    "bench_scaling",
    "bench_checkpointing",
)
ON_GPU = ("bench_data_wait", "bench_transition")


def main() -> int:
    """Runs the benches and prints their table."""
    said = bench_peers.arguments().parse_args()
    table = Table(Path("bench.json"), said.device == "cuda")
    for result in _on_gpu(said.nanogpt) if said.device == "cuda" else _on_cpu(said.nanogpt):
        table.add(result)
    return table.end()


def _on_cpu(nanogpt: Path | None) -> Iterator[Result]:
    for name in ON_CPU:
        yield from run_fresh(name)
    yield from run_fresh("bench_growth", keeps_memory=False)
    yield from bench_peers.run_short(nanogpt)


def _on_gpu(nanogpt: Path | None) -> Iterator[Result]:
    for name in ON_GPU:
        yield from run_fresh(name, "cuda")
    yield from bench_peers.run_on_gpu(nanogpt)


if __name__ == "__main__":
    sys.exit(main())
