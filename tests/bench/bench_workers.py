"""The 14M model under Ray Train against the same loop in a plain process, and with two workers against one of as many threads."""

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raystage.devices.cores import n_cores
from tests.bench.peer_size import small
from tests.bench.result import Result
from tests.bench.turns import RunInTurns

N_CORES = n_cores()
TURNS = 9
_RUNS = {
    "plain": ["runtime.engine=local", f"runtime.threads_per_worker={N_CORES}"],
    "ray": ["runtime.engine=ray", "runtime.workers=1", f"runtime.threads_per_worker={N_CORES}"],
    "ray-two-workers": ["runtime.engine=ray", "runtime.workers=2", f"runtime.threads_per_worker={max(1, N_CORES // 2)}"],
}


def run() -> Iterator[Result]:
    """Two lines."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs = [RunInTurns(Path(folder), name, small(256), overrides, stack) for name, overrides in _RUNS.items()]
        rates = [[each.turn() for each in runs] for _ in range(TURNS)]
    plain, ray, two = zip(*rates, strict=True)
    names = (f"Ray Train, 1 worker of all {N_CORES} cores", f"2 workers x {N_CORES // 2} threads")
    for name, against, ours, theirs, target, gate in (
        (names[0], "the same in a plain process", ray, plain, ">= 0.98", ">= 0.98"),
        (names[1], f"1 worker x {N_CORES} threads", two, ray, ">= 0.90", ""),
    ):
        ratios = tuple(a / b for a, b in zip(ours, theirs, strict=True))
        said = f"{statistics.median(ours):,.0f} against {statistics.median(theirs):,.0f} tokens/s"
        yield Result(name, against, "x", ratios, target, said, gate)


def main() -> None:
    """Prints the table."""
    for result in run():
        print(result.line(), flush=True)


if __name__ == "__main__":
    main()
