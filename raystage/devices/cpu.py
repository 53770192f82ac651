"""The CPU: gloo between ranks, threads set by hand (Ray gives a worker one)."""

import contextlib
import functools
import platform
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raystage.devices.available_memory import available_bytes
from raystage.devices.data_parallel import data_parallel
from raystage.devices.device import Precision
from raystage.devices.eager import Eager
from raystage.devices.float32_products import choose_quick_products
from raystage.devices.host_memory import keep_freed_memory
from raystage.devices.processor import processor
from raystage.devices.profile import TorchProfile
from raystage.devices.ranks import Ranks


class Cpu(Eager):
    backend: Literal["gloo"] = "gloo"
    torch_device = torch.device("cpu")

    @functools.cached_property
    def name(self) -> str:
        return processor("model name") or platform.machine()

    def prepare(self, threads: int, deterministic: bool) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        choose_quick_products()

    def random_state_kept(self) -> contextlib.AbstractContextManager[object]:
        return torch.random.fork_rng(devices=[])

    def autocast(self, precision: Literal["float32", "bf16"]) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    def full_float32(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def wrap(self, module: nn.Module, reduce_precision: Precision, bucket_mib: float | None) -> nn.Module:
        return data_parallel(module, reduce_precision, bucket_mib)

    def place(self, tensor: Tensor) -> Tensor:
        return tensor

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor

    def read(self, to_sum: list[Tensor], alike: list[Tensor], ranks: Ranks) -> "CpuReading":
        return CpuReading(_numbers(to_sum), _numbers(alike), ranks)

    def profile(self) -> TorchProfile:
        return TorchProfile(on_cuda=False)

    def range(self, name: str) -> contextlib.AbstractContextManager[object]:
        return torch.profiler.record_function(name)

    def synchronize(self) -> None:
        pass

    def peak_bytes(self) -> None:
        return None

    def free_bytes(self) -> int:
        return available_bytes()

    def free(self) -> None:
        pass


class CpuReading:
    """The sum over the ranks is what is waited for."""

    def __init__(self, sums: list[float], alike: list[float], ranks: Ranks) -> None:
        self._sums, self._alike = torch.tensor(sums, dtype=torch.float64), alike
        self._work = dist.all_reduce(self._sums, async_op=True) if ranks.world_size > 1 else None

    def has_arrived(self) -> bool:
        return self._work is None or bool(self._work.is_completed())

    def result(self) -> tuple[list[float], list[float]]:
        if self._work is not None:
            self._work.wait()
        return self._sums.tolist(), self._alike


def _numbers(tensors: list[Tensor]) -> list[float]:
    """All their numbers in one row; one at a time, since they are here already, and stacking them takes longer."""
    return [number for tensor in tensors for number in (tensor.tolist() if tensor.dim() else (tensor.item(),))]
