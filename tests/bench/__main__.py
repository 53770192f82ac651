"""All benches, one after the other: `make bench`. Prints the table and writes bench.json into the working folder."""

import dataclasses
import json
import platform
from pathlib import Path

import torch

from tests.bench import bench_controller, bench_growth, bench_report, bench_save, bench_step, bench_transition


def main() -> None:
    """Runs the benches and prints their table."""
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; medians of paired runs, lowest to highest")
    results = []
    for bench in (bench_step, bench_controller, bench_growth, bench_transition, bench_save, bench_report):
        results.append(bench.run())
        print(results[-1].line(), flush=True)
    Path("bench.json").write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
