"""One run in a plain process and on 1, 2, ... N workers, of one core each or of one GPU each, with the same global batch: what Ray Train
costs a worker that leaves it a core, tokens a second and efficiency.

`python -m tests.bench.bench_scaling [N]`, `make bench-scaling`. Writes bench_scaling.json into the working folder.
"""

import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from raystage.devices.cores import n_cores
from raystage.devices.ranks import Ranks
from raystage.models.family import build_model
from raystage.training.policy import plan_of
from raystage.training.stage_model import spec_of
from tests.bench.endless_run import endless
from tests.bench.peer_size import PeerSize, on_gpu, small
from tests.bench.result import Result
from tests.bench.table import Table
from tests.bench.turns import RunInTurns
from tests.gang import gang_of

N_GPUS = torch.cuda.device_count()
TURNS, REDUCTIONS = 7, 10


def run(n_most: int = N_GPUS or n_cores()) -> Iterator[Result]:
    """A line for one worker beside a plain process, and one for each number from 2 on: efficiency, their rate over so many times one's."""
    size = on_gpu()[0] if N_GPUS else small(256)
    size = dataclasses.replace(size, rows=max(size.rows, 4 * n_most))
    numbers = range(1, n_most + 1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        overrides = {"plain": ["runtime.engine=local"]} | {f"workers-{n}": ["runtime.engine=ray", f"runtime.workers={n}"] for n in numbers}
        runs = [RunInTurns(Path(folder), name, size, [*own, *_of_one_core(size)], stack) for name, own in overrides.items()]
        turns = [[each.turn() for each in runs] for _ in range(TURNS)]
    plain, *of_workers = zip(*turns, strict=True)
    rates = dict(zip(numbers, of_workers, strict=True))
    ratios = tuple(ray / alone for ray, alone in zip(rates[1], plain, strict=True))
    said = f"{statistics.median(rates[1]):,.0f} against {statistics.median(plain):,.0f} tokens/s"
    yield Result(
        f"Ray Train, 1 worker{'' if N_GPUS else ' of 1 core'}", "the same in a plain process", "x", ratios, ">= 0.98", said, ">= 0.98"
    )
    for n in numbers[1:]:
        shares = tuple(many / (n * one) for many, one in zip(rates[n], rates[1], strict=True))
        said = f"{statistics.median(rates[n]):,.0f} against {statistics.median(rates[1]):,.0f} tokens/s{_reduction_words(n, size)}"
        yield Result(f"{n} workers, {size.name}, efficiency", f"{n} x 1 worker", "x", shares, ">= 0.90", said)


def _of_one_core(size: PeerSize) -> list[str]:
    return ["runtime.threads_per_worker=1"] if size.device == "cpu" else []


def _reduction_words(n: int, size: PeerSize) -> str:
    """Of gloo alone, between processes that do nothing else."""
    if size.device != "cpu":
        return ""
    with tempfile.TemporaryDirectory() as folder, gang_of(n, Path(folder)) as gang:
        config = endless(Path(folder), "size", size, 1)
        spec = spec_of(config, plan_of(config).shapes()[-1], size.vocab_size, eot_id=0)
        n_parameters = sum(p.numel() for p in build_model(spec, 0).parameters())
        seconds: list[float] = gang(_reduce, n_parameters)
    return f"; gradients of {4 * n_parameters / 1e6:.0f} MB all-reduced alone in {1e3 * max(seconds):.0f} ms"


def _reduce(ranks: Ranks, n_numbers: int) -> float:
    """Seconds of the median reduction."""
    gradients, seconds = torch.ones(n_numbers), []
    for _ in range(REDUCTIONS):
        dist.barrier()
        begin_s = time.perf_counter()
        dist.all_reduce(gradients)
        seconds.append(time.perf_counter() - begin_s)
    return statistics.median(seconds)


def main() -> None:
    """Prints the table."""
    table = Table(Path("bench_scaling.json"), N_GPUS > 0)
    for result in run(*map(int, sys.argv[1:])):
        table.add(result)
    sys.exit(table.end())


if __name__ == "__main__":
    main()
