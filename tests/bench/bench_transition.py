"""First step of each stage against its steady step, compiled by inductor and rehearsed before. Needs a C++ compiler."""

import dataclasses
import shutil
import statistics
import time

import torch

from raystage.config import from_tree
from raystage.data.batch import Batch
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.spec import ModelSpec
from raystage.training.rehearsal import rehearse
from raystage.training.state import assemble
from raystage.training.step import train_step
from tests.bench.bench_step import SPEC
from tests.bench.result import Result

STEPS, BATCH_TOKENS = 7, 2048
SMALL = dataclasses.replace(SPEC, n_layer=2, d_model=128, n_head=4, n_kv_head=4, d_ff=512)
WIDER = dataclasses.replace(SMALL, d_model=256, n_head=8, n_kv_head=8, d_ff=1024)
STAGES = [(SMALL, 64), (SMALL, 128), (WIDER, 128), (WIDER, 256)]


def run() -> Result:
    """Two lengths, a doubled width, a third length; each stage begins with a model of its own, as after growth."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise RuntimeError("inductor compiles C++ and finds no compiler here: install g++")
    config = from_tree({"training": {"compile": True, "batch_tokens": BATCH_TOKENS, "micro_batch_tokens": BATCH_TOKENS}})
    device = pick_device("cpu")
    device.prepare(torch.get_num_threads(), deterministic=False)
    found = rehearse(config, STAGES, device, Ranks(), BATCH_TOKENS)
    ratios = []
    for spec, length in STAGES:
        machinery = assemble(spec, config, device, Ranks())
        seconds = []
        for batch in _batches(spec, length):
            begin_s = time.perf_counter()
            train_step(machinery, batch, BATCH_TOKENS, Ranks(), device, config.training, None)
            seconds.append(time.perf_counter() - begin_s)
        ratios.append(seconds[0] / statistics.median(seconds[1:]))
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return Result(
        "first step of a stage, compiled",
        "steady step",
        "x",
        tuple(ratios),
        "<= 1.5",
        f"stages {each}; compiled in {found.compile_s:.0f} s",
        "<= 2",
    )


def _batches(spec: ModelSpec, length: int) -> list[Batch]:
    tokens = torch.randint(spec.vocab_size, (STEPS, BATCH_TOKENS // length, length + 1))
    return [Batch(t[:, :-1].contiguous(), t[:, 1:].contiguous()) for t in tokens]


if __name__ == "__main__":
    print(run().line())
