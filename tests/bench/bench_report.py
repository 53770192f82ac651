"""A report of ten runs with a million records each: seconds, peak memory, size of the page.

The ten run folders are hard links to two made files, so that the disk holds 1.4 GB and not 7; each is read anew.
`python -m tests.bench.bench_report`.
"""

import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raystage.devices.cores import n_cores
from tests.bench.result import Result

MILLION = 1_000_000
N_RUNS = 10
TARGET_S = 30.0
TARGET_BYTES = 5_000_000
_STEPS_A_CHECK = 10
_STEPS_A_VALIDATION = 1000


def run(n_records: int = MILLION, n_times: int = 1) -> Result:
    """The command as a user gives it, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        runs = _runs(Path(folder), n_records)
        built = [_build(runs, Path(folder) / "report") for _ in range(n_times)]
        ratios, cpu_s = [wall_s / TARGET_S for wall_s, _ in built], [cpu_s for _, cpu_s in built]
        n_bytes = (Path(folder) / "report" / "index.html").stat().st_size
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert n_bytes < TARGET_BYTES, f"the page has {n_bytes} bytes"
    seconds = f"{min(ratios) * TARGET_S:.1f} s, {min(cpu_s):.1f} s of CPU on {n_cores()} cores"
    detail = f"{seconds}; page {n_bytes / 1e6:.2f} of 5 MB; the largest process {peak_bytes / 1e6:.0f} MB"
    return Result(f"report, {N_RUNS} x {n_records:,} records", f"{TARGET_S:.0f} s", "x", tuple(ratios), "<= 1.00", detail)


def _build(runs: list[Path], out: Path) -> tuple[float, float]:
    """Seconds by the clock, and of CPU."""
    begin_s, begin_cpu_s = time.monotonic(), _cpu_s()
    subprocess.run([sys.executable, "-m", "raystage", "report", *map(str, runs), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin_s, _cpu_s() - begin_cpu_s


def _cpu_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _runs(folder: Path, n_records: int) -> list[Path]:
    runs = [folder / f"run-{i}" for i in range(N_RUNS)]
    for i, each in enumerate(runs):
        each.mkdir()
        if i < 2:
            _write(each, n_records, seed=i)
        else:
            os.link(runs[i % 2] / "metrics.jsonl", each / "metrics.jsonl")
            os.link(runs[i % 2] / "decisions.jsonl", each / "decisions.jsonl")
    return runs


def _write(folder: Path, n_records: int, seed: int) -> None:
    """Train records with the keys of a real run, a check every 10 steps and a validation every 1000; three stages."""
    noise = random.Random(seed)
    n_steps = round(n_records / (1 + 1 / _STEPS_A_CHECK + 1 / _STEPS_A_VALIDATION))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, n_steps + 1):
            stage = 3 * (step - 1) // n_steps
            record = _train(step, stage, noise)
            file.write(json.dumps(record) + "\n")
            if step % _STEPS_A_CHECK == 0:
                file.write(json.dumps(_check(record, noise)) + "\n")
            if step % _STEPS_A_VALIDATION == 0 or step == n_steps:
                file.write(json.dumps({**_without_losses(record), "val_loss": _loss(step), "stage_end": step == n_steps}) + "\n")
    borders = [stage * n_steps // 3 + 1 for stage in (1, 2)]
    decisions = [_decision(number, step) for number, step in enumerate(borders, 1)]
    (folder / "decisions.jsonl").write_text("".join(json.dumps(decision) + "\n" for decision in decisions))


def _loss(step: int) -> float:
    return 2 + 6 * math.pow(step, -0.3)


def _train(step: int, stage: int, noise: random.Random) -> dict[str, object]:
    account = dict.fromkeys(("dropped", "waiting", "recycled", "repeated", "skipped", "undone"), 0)
    return {
        "kind": "train",
        "tokens_seen": 2048 * step,
        **{f"tokens_{name}": value for name, value in account.items()},
        "flops": 4.1e8 * step * (1 + 0.1 * stage),
        "time_s": round(0.0213 * step, 4),
        "stage": stage,
        "seq_len_tokens": 32 << stage,
        "batch_tokens": 2048,
        "n_layer": 2,
        "d_model": 64,
        "n_parameters": 141056,
        "world_size": 2 if step % 50_000 < 40_000 else 1,
        "attempt": 1,
        "batch_crc32": noise.getrandbits(32),
        "probe_loss": None,
        "second_moment": 1e-3 * noise.random() if step % _STEPS_A_CHECK == 0 else None,
        "step": step,
        "compute": 3.9e8 * step,
        "lr": 0.02,
        "progress": step / 1e6,
        "taken": [stage],
        "held": False,
        "n_rollbacks": 0,
        "loss": _loss(step) + noise.gauss(0, 0.03),
        "grad_norm": abs(noise.gauss(0.5, 0.05)),
        "tokens_per_s": 1e5 + 1e3 * (step // 10 % 97),
        "slope": -0.06128986568149934,
        "mfu": None,
    }


def _without_losses(record: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in record.items() if key not in ("loss", "grad_norm", "tokens_per_s", "slope", "mfu")} | {
        "kind": "val"
    }


def _check(record: dict[str, object], noise: random.Random) -> dict[str, object]:
    slope = -0.08 + noise.gauss(0, 0.01)
    shared = {key: record[key] for key in ("step", "tokens_seen", "stage")}
    found = {"slope": slope, "slope_se": 0.0063, "slope_bound": slope - 0.01, "threshold": -0.0575, "in_a_row": 0, "fired": False}
    return {"kind": "check", **shared, "change": "depth", **found, "reason": "below threshold", "trouble_begins": False}


def _decision(number: int, step: int) -> dict[str, object]:
    shapes = [{"seq_len_tokens": 32 << stage, "n_layer": 2, "d_model": 64} for stage in (number - 1, number)]
    changed = {"decision_id": number, "kind": "raise_seq_len", "from": shapes[0], "to": shapes[1], "effective_step": step}
    return {**changed, "tokens_seen": 2048 * step, "trigger": "schedule", "slope": None, "threshold": None, "outcome": "applied"}


if __name__ == "__main__":
    print(run().line())
