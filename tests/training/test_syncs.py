"""Between boundaries nobody waits for the device: counted by instrumentation, also where sending, deciding and recording go on."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.made_run import configure, train_here

READS = {"aten::_local_scalar_dense"}  # item, tolist, float, bool: each waits for the device


class ReadCounter(TorchDispatchMode):
    """Counts values read to the host, by the method of the loop that they were read in."""

    def __init__(self) -> None:
        super().__init__()
        self.by_method: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in READS:
            self.by_method[_method(sys._getframe())] += 1
        return func(*args, **(kwargs or {}))


def _method(frame: FrameType | None) -> str:
    """`optimizer` where torch's own reads its step count, which lies on the host."""
    while frame is not None:
        file = frame.f_code.co_filename
        if "torch/optim" in file:
            return "optimizer"
        if file.endswith("raystage/training/loop.py"):
            return frame.f_code.co_name
        frame = frame.f_back
    return "elsewhere"


def test_no_value_is_read_from_the_device_in_a_step(tmp_path: Path) -> None:
    overrides = ["pacing.rule=slope", "pacing.at=null", "pacing.check_every_steps=10", "pacing.signal=probe"]
    with ReadCounter() as reads:
        records = train_here(configure(tmp_path, [*overrides, "training.duration=40 steps"]))
    assert len(records.train) == 40
    assert len(records.checks) >= 3, "the controller was sent points, and answered"
    assert reads.by_method["_train_one_step"] == 0, reads.by_method
    assert reads.by_method["_measure_probe"] == 0, reads.by_method


def test_the_counter_sees_a_read() -> None:
    with ReadCounter() as reads:
        float(torch.ones(()) + 1)
    assert reads.by_method == {"elsewhere": 1}
