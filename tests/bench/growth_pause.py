"""How long growth stops training, in steps: `python -m tests.bench.growth_pause`. Two Ray Train workers on the CPU."""

import statistics
import tempfile
from pathlib import Path

import ray

from raystage.config import Config, load
from raystage.runtime.driver import train
from raystage.runtime.ray_engine import RayEngine
from raystage.tracking.records import RunRecords

SMALL = ["training.batch_tokens=2048"]
LARGER = [
    "model.d_model=256",
    "model.n_head=8",
    "model.n_layer=4",
    "pacing.depths=[2, 4]",
    "pacing.widths=[128, 256]",
    "training.batch_tokens=8192",
]
PACED = [
    "tracking.mlflow=false",
    "sample.lines=0",
    "pacing.rule=table",
    "pacing.lengths=null",
    "pacing.order=[depth, width]",
    "pacing.at=[0.3, 0.6]",
    "checkpoint.every_steps=1000000",
]


def main() -> None:
    """Runs both sizes and prints their pauses."""
    print("growth on 2 workers: what training waits for it (copy of the state, growth, gate), in steps before it; target < 3")
    with tempfile.TemporaryDirectory() as folder:
        for name, overrides, duration in (("quickstart", SMALL, "600 steps"), ("4 layers x 256", LARGER, "60 steps")):
            settings = [*PACED, *overrides, f"name=pause-{len(overrides)}", f"storage={folder}", f"training.duration={duration}"]
            config = load(Path("tune_configs/quickstart.yaml"), settings)
            _print_pauses(name, config)


def _print_pauses(name: str, config: Config) -> None:
    outcome = train(config, lambda: RayEngine(config), lambda *_: None, lambda _: None)
    ray.shutdown()
    records = RunRecords.load(outcome.folder.path)
    for pause, decision in zip(records.pauses, records.decisions, strict=True):
        step_s = _seconds_a_step(records, pause["step"])
        steps = pause["pause_s"] / step_s
        print(f"{name:<16} {decision['kind']:<11} {pause['pause_s']:.3f} s = {steps:.2f} steps of {step_s * 1000:.1f} ms")


def _seconds_a_step(records: RunRecords, last_step: int) -> float:
    """Median over the steps before the growth."""
    before = [r for r in records.train if r["step"] <= last_step][-60:]
    return statistics.median(r["batch_tokens"] / r["tokens_per_s"] for r in before)


if __name__ == "__main__":
    main()
