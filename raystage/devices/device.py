"""The protocol of a device, and the choice of one."""

import contextlib
from typing import Literal, Protocol

import torch
from torch import nn


class Device(Protocol):
    @property
    def torch_device(self) -> torch.device:
        """Where tensors go."""
        ...

    @property
    def backend(self) -> Literal["gloo", "nccl"]:
        """What ranks exchange gradients with."""
        ...

    @property
    def name(self) -> str:
        """What the hardware calls itself, for records."""
        ...

    def prepare(self, threads: int) -> None:
        """Settings of this process: threads, numerics."""
        ...

    def autocast(self, precision: Literal["float32", "bf16"]) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass."""
        ...

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over the ranks of the process group."""
        ...


def pick_device(name: Literal["auto", "cpu", "cuda"], local_rank: int = 0) -> Device:
    """The device of that name; `auto` is cuda where there is one. Raises ValueError for a device that is not there."""
    from raystage.devices.cpu import Cpu
    from raystage.devices.cuda import Cuda

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return Cpu()
    if not torch.cuda.is_available():
        raise ValueError("runtime.device=cuda: torch sees no CUDA device here; use cpu or auto, or mend the driver")
    return Cuda(local_rank)
