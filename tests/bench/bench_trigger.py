"""The table of the slope trigger: early, late or never, over stages, noises and thresholds. `python -m tests.bench.bench_trigger`."""

import argparse
import dataclasses
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from raystage.config.pacing import Thresholds
from raystage.devices.cores import n_cores
from tests.pacing.curves import ar1, crossing_at, default_policy, first_fired

STAGES = ((0, 10_000), (10_000, 50_000), (10_000, 20_000))
OF_DEFAULT = Thresholds()
THRESHOLDS = (OF_DEFAULT.length, OF_DEFAULT.depth, OF_DEFAULT.width, OF_DEFAULT.both)
DEVIATIONS = (0.003, 0.01, 0.045)  # of the loss of a step: half a million tokens, tens of thousands, two thousand
RHOS = (0.0, 0.5, 0.8)
CHECKS = 100  # from the stage's begin to its crossing
REACH = 2.5  # how far a curve goes on, in ways from the stage's begin to its crossing
MOST_EARLY, MOST_LATE = 0.05, 0.10


@dataclasses.dataclass(frozen=True)
class Row:
    """Stages that begin at step `start` and whose slope crosses `threshold` at step `crossing`, under AR(1) noise."""

    start: int
    crossing: int
    threshold: float
    deviation: float
    rho: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`early`, `never`: shares of the seeds; `median`, `late`: delay of the half and of 95% of the others, as a share of the stage."""

    early: float
    median: float
    late: float
    never: float

    @property
    def passes(self) -> bool:
        return self.early < MOST_EARLY and self.median < MOST_LATE


def rows() -> Iterator[Row]:
    """Every combination."""
    for (start, crossing), threshold, deviation, rho in itertools.product(STAGES, THRESHOLDS, DEVIATIONS, RHOS):
        yield Row(start, crossing, threshold, deviation, rho)


def measure(row: Row, n_seeds: int) -> Outcome:
    """Where the configuration's default policy fires, over so many seeds."""
    policy, law = default_policy(threshold=row.threshold), crossing_at(row.crossing, row.threshold)
    way = row.crossing - row.start
    noises = (ar1(seed, round(REACH * way), row.rho, row.deviation) for seed in range(n_seeds))
    fired = [first_fired(policy, law, noise, row.start, way // CHECKS) for noise in noises]
    delays = np.array([math.inf if step is None else (step - row.crossing) / way for step in fired])
    after = np.sort(delays[delays > 0])
    median, late = (float(after[int(share * (len(after) - 1))]) if len(after) else math.nan for share in (0.5, 0.95))
    return Outcome(float(np.mean(delays <= 0)), median, late, float(np.mean(np.isinf(delays))))


def main() -> None:
    """Prints the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    n_seeds = parser.parse_args().seeds
    print(f"{n_seeds} seeds; delays in % of the way from the stage's begin to its crossing; * under 5% early and 10% late")
    print(f"{'stage':>16} {'threshold':>9} {'noise':>6} {'rho':>4} {'early %':>8} {'median %':>9} {'95% %':>7} {'never %':>8}")
    n_passed = 0
    with ProcessPoolExecutor(n_cores()) as pool:
        everything = list(rows())
        for row, outcome in zip(everything, pool.map(measure, everything, itertools.repeat(n_seeds)), strict=True):
            n_passed += outcome.passes
            print(_line(row, outcome), flush=True)
    print(f"{n_passed} of {len(everything)} rows")


def _line(row: Row, outcome: Outcome) -> str:
    percents = (f"{100 * value:>{width}.1f}" for value, width in zip(dataclasses.astuple(outcome), (8, 9, 7, 8), strict=True))
    stage = f"{row.start} to {row.crossing}"
    return f"{stage:>16} {row.threshold:>9} {row.deviation:>6.1%} {row.rho:>4} {' '.join(percents)} {'*' if outcome.passes else ''}"


if __name__ == "__main__":
    main()
