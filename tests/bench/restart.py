"""From SIGKILL of a worker to the next step: raystage on Ray beside the same run under torchrun with its own restart. `make bench-restart`.

Two workers, the same configuration and machine, one launcher after the other. Every kill comes after as long a time of training, in which
raystage has its spare processes ready, once with them and once without. A step counts once it is in metrics.jsonl, in all.
"""

import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from raystage.tracking.records import METRICS_FILE, parse_line
from tests.bench.running import TRAIN, ray_workers, running
from tests.training.made_run import assign, configure

KILLS = 3
TRAIN_S = 30  # before a kill
RUN = [
    "training.duration=100000 steps",
    "training.preflight=false",
    "checkpoint.every_steps=50",
    "pacing.at=[0.9, 0.95, 0.99]",
    "sample.lines=0",
    "runtime.workers=2",
]


def main() -> None:
    """Kills a worker of each a few times; prints the seconds."""
    print(f"{'launcher':<24} seconds from SIGKILL of a worker to the next step")
    with tempfile.TemporaryDirectory() as folder:
        ours = _measure(Path(folder), "raystage on Ray", [sys.executable, *TRAIN], "runtime.spare_after_s=1")
        _measure(Path(folder), "the same without spares", [sys.executable, *TRAIN], "runtime.spare_after_s=null")
        torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node=2", f"--max-restarts={KILLS + 1}"]
        theirs = _measure(Path(folder), "torchrun", [*torchrun, "--no-python", sys.executable, *TRAIN], "runtime.engine=local")
    print(f"raystage / torchrun: {statistics.median(ours) / statistics.median(theirs):.2f}")


def _measure(folder: Path, launcher: str, command: list[str], *more: str) -> list[float]:
    config = configure(folder, [f"name={launcher.replace(' ', '-')}", "runtime.engine=ray", *RUN, *more])
    metrics = assign(config).run_dir / METRICS_FILE
    with running(folder, config, command) as process:
        seconds = [_kill(process, metrics, n) for n in range(KILLS)]
    print(f"{launcher:<24} {', '.join(f'{s:.1f}' for s in seconds)}", flush=True)
    return seconds


def _kill(process: psutil.Popen, metrics: Path, number: int) -> float:
    """Seconds until steps of the next attempt are recorded."""
    while _newest(metrics)[0] <= number:
        _pause(process)
    attempt, train_until_s = _newest(metrics)[0], time.monotonic() + TRAIN_S
    while time.monotonic() < train_until_s:
        _pause(process)
    victim, begin_s = _worker(process), time.monotonic()
    victim.send_signal(signal.SIGKILL)
    while _newest(metrics)[0] <= attempt:
        _pause(process)
    return time.monotonic() - begin_s


def _pause(process: psutil.Popen) -> None:
    assert process.poll() is None, "the run has ended"
    time.sleep(0.01)


def _newest(metrics: Path) -> tuple[int, int]:
    """Attempt and step of the newest training record."""
    if not metrics.exists():
        return 0, 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 20_000))
        records = [parse_line(line) or {} for line in file.read().split(b"\n")[:-1]]
    train = [record for record in records if record.get("kind") == "train"]
    return (train[-1]["attempt"], train[-1]["step"]) if train else (0, 0)


def _worker(process: psutil.Popen) -> psutil.Process:
    """The process of one of the two workers: under torchrun of rank 1, since rank 0 is its driver too."""
    if workers := ray_workers(process):
        return workers[-1]
    return next(child for child in process.children(recursive=True) if child.environ().get("RANK") == "1")


if __name__ == "__main__":
    main()
