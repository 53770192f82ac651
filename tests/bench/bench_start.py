"""Seconds from `raystage train` to the first step's record, on Ray, against importing torch, ray and transformers and starting Ray."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raystage.tracking.records import METRICS_FILE
from tests.bench.result import Result, paired_figures
from tests.bench.running import TRAIN, running
from tests.training.made_run import assign, configure

PAIRS, MOST_S = 2, 300.0
RUN = [
    "runtime.engine=ray",
    "runtime.workers=1",
    "training.preflight=true",
    "training.duration=100000 steps",
    "pacing={rule: constant, check_every_steps: 1}",
]
BARE = "import torch, ray, transformers; ray.init(include_dashboard=False, log_to_driver=False); print('started', flush=True)"


def run() -> Result:
    """A small model, its corpus prepared; files of both are in the system's cache after the first pair."""
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), itertools.count()
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}

        def ours() -> float:
            config = configure(folder, [f"name=start-{next(number)}", *RUN])
            metrics, begin_s = assign(config).run_dir / METRICS_FILE, time.perf_counter()
            with running(folder, config, [sys.executable, *TRAIN]) as process:
                while not (metrics.exists() and b'"train"' in metrics.read_bytes()):
                    assert process.poll() is None, (folder / f"{config.name}.log").read_text()
                    assert time.perf_counter() - begin_s < MOST_S, "no step"
                    time.sleep(0.02)
                return time.perf_counter() - begin_s

        def bare() -> float:
            begin_s = time.perf_counter()
            with subprocess.Popen([sys.executable, "-c", BARE], env=environment, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"started\n"
                return time.perf_counter() - begin_s

        seconds = paired_figures(ours, bare, PAIRS)
    said = "; ".join(f"{mine:.1f} s against {theirs:.1f}" for mine, theirs in seconds)
    ratios = tuple(mine / theirs for mine, theirs in seconds)
    return Result("start to the first step, s", "imports and ray.init", "x", ratios, "<= 1.50", said)


if __name__ == "__main__":
    print(run().line())
