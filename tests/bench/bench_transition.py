"""The first step of each stage against its steady steps: whole runs through longer sequences and growth, eager and compiled by inductor.
The preflight has made all of its code. Needs a C++ compiler, as inductor does.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from raystage.devices.cores import n_cores
from raystage.devices.device import Device, pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.worker import run_rank
from raystage.training.loop import Loop
from tests.bench.fresh import Where
from tests.bench.result import Result
from tests.training.made_run import assign, configure

STAGE_STEPS, N_STAGES = 12, 5
PACING = "rule: table, at: [0.2, 0.4, 0.6, 0.8], check_every_steps: 4"
SMALL = [
    "model={context_length: 256, n_layer: 4, d_model: 256, n_head: 4}",
    f"pacing={{{PACING}, lengths: [64, 128, 256], depths: [2, 4], widths: [128, 256]}}",
    "training.batch_tokens=2048",
    "training.micro_batch_tokens=2048",
]
GPT2_124M = [
    "model={vocab_size: 50304, context_length: 1024, n_layer: 12, d_model: 768, n_head: 12}",
    f"pacing={{{PACING}, lengths: [256, 512, 1024], depths: [6, 12], widths: [384, 768]}}",
    "training.batch_tokens=32768",
    "training.micro_batch_tokens=32768",
    "training.precision=bf16",
]
PLAN = [
    f"training.duration={N_STAGES * STAGE_STEPS} steps",
    "training.preflight=true",
    "validation={every_steps: 1000, rows: 8}",
    "checkpoint={every_steps: 1000, every_minutes: null}",
]


def run() -> Iterator[Result]:
    """Two lines."""
    return _measure(SMALL, "cpu")


def run_on_gpu() -> Iterator[Result]:
    """The same by GPT-2 124M."""
    return _measure(GPT2_124M, "cuda")


def _measure(sizes: list[str], device: Where) -> Iterator[Result]:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise RuntimeError("inductor compiles C++ and finds no compiler here: install g++")
    for name, compile_ in (("eager", False), ("compiled", True)):
        seconds = _seconds_of_steps([*sizes, *PLAN, f"training.compile={str(compile_).lower()}"], pick_device(device))
        stages = [seconds[first : first + STAGE_STEPS] for first in range(0, len(seconds), STAGE_STEPS)]
        ratios = tuple(stage[0] / statistics.median(stage[1:]) for stage in stages[1:])
        said = ", ".join(f"{1e3 * stage[0]:.0f} of {1e3 * statistics.median(stage[1:]):.0f} ms" for stage in stages[1:])
        yield Result(f"first step of a stage, {name}", "steady step", "x", ratios, "<= 1.50", said, "<= 2")


def _seconds_of_steps(settings: list[str], device: Device) -> list[float]:
    """Of every step of a run; what changes a stage lies between them."""
    honest, seconds = Loop._train_one_step, list[float]()

    def timed(loop: Loop, *args: Any) -> None:
        begin_s = time.perf_counter()
        honest(loop, *args)
        device.synchronize()
        seconds.append(time.perf_counter() - begin_s)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Loop, "_train_one_step", timed):
        config = configure(Path(folder), ["name=transition", *settings])
        run_rank(assign(config), device, Ranks(), threads=n_cores())
    return seconds


if __name__ == "__main__":
    for result in run():
        print(result.line(), flush=True)
