"""All benches but the longest, one after the other: `make bench`. Prints the table and writes bench.json into the working folder.

`--device cuda`: those of a GPU alone.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from raystage.devices.device import pick_device
from tests.bench import bench_peers
from tests.bench.result import Result


def main() -> None:
    """Runs the benches and prints their table."""
    on_cuda = any("cuda" in word for word in sys.argv)
    where = torch.cuda.get_device_name() if on_cuda else f"{pick_device('cpu').name}, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}; medians of paired runs, lowest to highest")
    results: list[Result] = []
    begin_s = before_s = time.monotonic()
    for result in bench_peers.run_on_gpu() if on_cuda else _on_cpu():
        results.append(result)
        now_s = time.monotonic()
        print(f"{result.line()} [took {now_s - before_s:.0f} s]", flush=True)
        before_s = now_s
        Path("bench.json").write_text(json.dumps([dataclasses.asdict(each) for each in results], indent=1))
    missed = ", ".join(f"{result.name} ({result.against})" for result in results if result.is_missed)
    said = f"missed, with profiles in docs/benchmarks.md: {missed}" if missed else "all targets met"
    print(f"{(time.monotonic() - begin_s) / 60:.0f} minutes; {said}")


def _on_cpu() -> Iterator[Result]:
    # a GPU's machine may have no Ray, which some of these need
    from tests.bench import (
        bench_controller,
        bench_controller_day,
        bench_data_wait,
        bench_growth,
        bench_pacing,
        bench_prepare,
        bench_records,
        bench_report,
        bench_save,
        bench_start,
        bench_step,
        bench_transition,
        bench_workers,
    )

    simulated = (bench_controller, bench_controller_day)
    measured = (bench_pacing, bench_records, bench_growth, bench_transition, bench_save, bench_prepare, bench_report, bench_start)
    for bench in (bench_step, *simulated, *measured):
        yield bench.run()
    yield from bench_data_wait.run()
    yield from bench_workers.run()
    yield from bench_peers.run_small()


if __name__ == "__main__":
    main()
