"""Counts the values that are read from the device: each read waits for it."""

import sys
from collections import Counter
from types import FrameType
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

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
