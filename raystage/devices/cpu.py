"""The CPU: gloo between ranks, threads set by hand (Ray gives a worker one)."""

import contextlib
import platform
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Cpu:
    backend: Literal["gloo"] = "gloo"
    torch_device = torch.device("cpu")

    @property
    def name(self) -> str:
        return platform.processor() or platform.machine()

    def prepare(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def autocast(self, precision: Literal["float32", "bf16"]) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    def wrap(self, module: nn.Module) -> nn.Module:
        return DistributedDataParallel(module)
