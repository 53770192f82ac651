"""CPU time that pacing costs a training step: points, boundaries, checks, orders, reads of Adam's moments; and how often it waits for the
device."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from scipy import special

import raystage.data.reader as reader_module
import raystage.training.loop as loop_module
from raystage.config.schema import Optimizer
from raystage.data.batch import Batch
from raystage.models.family import build_model
from raystage.runtime.run_folder import RunFolder
from raystage.training.optimizer import largest_second_moment, make_optimizer
from raystage.training.run import Run
from raystage.training.step_log import StepLog
from tests.bench.bench_step import OF_14M
from tests.bench.cpu_clock import CpuClock
from tests.bench.result import Result
from tests.training.made_run import configure, train_here
from tests.training.read_counter import ReadCounter

STEPS, PAIRS = 6000, 10
# nothing to change, and a stop that never comes: every check looks at the slope
PAIRED = {
    "paced": ["pacing.rule=slope", "pacing.check_every_steps=10", "pacing.thresholds.stop=-1e-9"],
    "constant": ["pacing.rule=constant"],
}
TARGET_S = 100e-6
RUN = [
    "pacing.rule=slope",
    "pacing.at=null",
    "pacing.check_every_steps=10",
    # never reached, so that every check decides and nothing is applied
    "pacing.thresholds={length: -1e-9, depth: -1e-9, width: -1e-9}",
    f"training.duration={STEPS} steps",
    f"validation.every_steps={STEPS}",
    f"checkpoint={{every_steps: {STEPS}, every_minutes: null}}",
]


def run() -> Iterator[Result]:
    """Three lines."""
    yield cpu_time()
    yield moments_time()
    yield syncs()


def cpu_time() -> Result:
    """A run whose forward, backward and data cost nothing: what is left is pacing.

    Less records, fencing off old attempts, and the three changes that the last call makes: applying nothing is what is measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        spent_us = [_cost_a_step(Path(folder), f"cost-{number}") * 1e6 for number in range(3)]
    ratios = tuple(us / (TARGET_S * 1e6) for us in spent_us)
    return Result("pacing, CPU time a step", "100 us", "x", ratios, "<= 1", f"{spent_us[-1]:.0f} us", "<= 1")


def moments_time() -> Result:
    """What grows with the model: the largest second moment. The 14M model."""
    model = build_model(OF_14M, 0)
    optimizer = make_optimizer(model, Optimizer())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    spent_us = []
    for _ in range(21):
        begin_s = time.process_time()  # of all threads: torch takes several for a large tensor
        largest_second_moment(optimizer)
        spent_us.append(1e6 * (time.process_time() - begin_s) / loop_module.MOMENT_EVERY_STEPS)
    ratios = tuple(us / (TARGET_S * 1e6) for us in spent_us[1:])  # the first warms up
    said = f"{statistics.median(spent_us[1:]):.0f} us"
    return Result("second moments of 14M, CPU time a step", "100 us", "x", ratios, "<= 1", said, "<= 1")


def syncs() -> Result:
    """Values read from the device in the steps of a run with a decision by slope at every boundary, and a probe."""
    steps = 40
    overrides = [
        "pacing.rule=slope",
        "pacing.at=null",
        "pacing.check_every_steps=10",
        "pacing.signal=probe",
        f"training.duration={steps} steps",
    ]
    with tempfile.TemporaryDirectory() as folder, ReadCounter() as reads:
        train_here(configure(Path(folder), ["name=syncs", *overrides]))
    added = sum(reads.by_method[part] for part in ("_train_one_step", "_measure_probe"))
    return Result("waits for the device that a step adds", "none", "", (added / steps,), "<= 0", "", "<= 0")


def wall_clock() -> str:
    """The same small run with and without decisions by slope, in pairs that take turns to be first; Student's 95% interval."""
    with tempfile.TemporaryDirectory() as folder:
        longer_us = []
        for number in range(PAIRS):
            names = ("paced", "constant") if number % 2 else ("constant", "paced")
            took_us = {name: _wall_us_a_step(Path(folder), f"{name}-{number}", PAIRED[name]) for name in names}
            longer_us.append(took_us["paced"] - took_us["constant"])
    mean, error = statistics.fmean(longer_us), statistics.stdev(longer_us) / PAIRS**0.5
    margin = float(special.stdtrit(PAIRS - 1, 0.975)) * error
    of_us = took_us["constant"]
    return f"wall clock: a step with decisions by slope takes {mean:.0f} +- {margin:.0f} us longer ({PAIRS} pairs, of {of_us:.0f} us)"


def _wall_us_a_step(folder: Path, name: str, overrides: list[str]) -> float:
    common = ["pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.at=null", "checkpoint.every_steps=10000"]
    long = ["training.duration=600 steps", "validation.every_steps=10000"]
    train = train_here(configure(folder, [f"name={name}", *common, *long, *overrides])).train
    return 1e6 * (train[-1]["time_s"] - train[99]["time_s"]) / (len(train) - 100)


def _cost_a_step(folder: Path, name: str) -> float:
    """[s] of CPU time."""
    clock = CpuClock()
    batch = Batch(*(torch.zeros(8, 16, dtype=torch.int64) for _ in range(2)))
    loss, norm = torch.tensor(400.0, dtype=torch.float64), torch.tensor(1.0)
    calls = iter(range(1, 2 * STEPS))  # the loss falls for ever, or it would count as saturated

    def read(*_: Any) -> Batch:
        return batch

    def step(*_: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return loss * next(calls) ** -0.2, norm

    pacing: list[tuple[Any, str]] = [(loop_module.Loop, part) for part in ("_collect", "_boundary", "_carry_out_decisions")]
    pacing.append((loop_module, "seen_at"))
    others: list[tuple[Any, str]] = [(Run, part) for part in ("record", "save", "validate")] + [
        (RunFolder, "attempt"),
        (loop_module, "carry_out"),
    ]
    with contextlib.ExitStack() as patches:
        # plain functions: a mock keeps all that it was ever called with, and the collector of garbage goes through it
        patches.enter_context(mock.patch.object(reader_module, "read_batch", read))
        patches.enter_context(mock.patch.object(loop_module, "train_step", step))
        for owner, part in (*pacing, (StepLog, "add")):
            patches.enter_context(mock.patch.object(owner, part, clock.running(getattr(owner, part))))
        for owner, part in others:
            patches.enter_context(mock.patch.object(owner, part, clock.stopped(getattr(owner, part))))
        train_here(configure(folder, [f"name={name}", *RUN]))
    return clock.spent_s / STEPS


if __name__ == "__main__":
    for result in run():
        print(result.line())
    print(wall_clock())
