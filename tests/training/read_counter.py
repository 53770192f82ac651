"""Counts the values that are read from the device: each read waits for it."""

import contextlib
import sys
from collections import Counter
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

OPERATIONS = {"aten::_local_scalar_dense"}  # item, float, bool
METHODS = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy}  # on the CPU no operation tells of them


class ReadCounter(contextlib.ExitStack):
    """Counts values read to the host, by the method of the loop that they were read in."""

    def __init__(self) -> None:
        super().__init__()
        self.by_method: Counter[str] = Counter()

    def __enter__(self) -> "ReadCounter":
        self.enter_context(_Operations(self.by_method))
        self.enter_context(_Methods(self.by_method))
        return self


class _Operations(TorchDispatchMode):
    def __init__(self, reads: Counter[str]) -> None:
        super().__init__()
        self._reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in OPERATIONS:
            self._reads[_method(sys._getframe())] += 1
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, reads: Counter[str]) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METHODS:
            self._reads[_method(sys._getframe())] += 1
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
