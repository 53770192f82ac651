"""One CUDA device a worker: nccl between ranks."""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raystage.devices.data_parallel import data_parallel
from raystage.devices.device import Precision
from raystage.devices.eager import Eager
from raystage.devices.profile import TorchProfile
from raystage.devices.ranks import Ranks
from raystage.devices.reading import flat


class Cuda(Eager):
    backend: Literal["nccl"] = "nccl"

    def __init__(self, local_rank: int = 0) -> None:
        self.torch_device = torch.device("cuda", local_rank % torch.cuda.device_count())

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.torch_device)

    def prepare(self, threads: int, deterministic: bool) -> None:
        torch.set_num_threads(threads)
        torch.cuda.set_device(self.torch_device)
        torch.set_float32_matmul_precision("high")
        # cuBLAS reads it once, when it is first used; a deterministic run in this process may come later
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)

    def random_state_kept(self) -> contextlib.AbstractContextManager[object]:
        return torch.random.fork_rng(devices=[self.torch_device])

    def autocast(self, precision: Literal["float32", "bf16"]) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    @contextlib.contextmanager
    def full_float32(self) -> Iterator[None]:
        usual = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(usual)

    def wrap(self, module: nn.Module, reduce_precision: Precision, bucket_mib: float | None) -> nn.Module:
        return data_parallel(module, reduce_precision, bucket_mib, [self.torch_device.index])

    def place(self, tensor: Tensor) -> Tensor:
        host = tensor if tensor.is_cuda else tensor.pin_memory()  # what is not pinned waits for the stream
        return host.to(self.torch_device, non_blocking=True)

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.torch_device)

    def read(self, to_sum: list[Tensor], alike: list[Tensor], ranks: Ranks) -> "CudaReading":
        return CudaReading(flat(to_sum), flat(alike), ranks)

    def profile(self) -> TorchProfile:
        return TorchProfile(on_cuda=True)

    @contextlib.contextmanager
    def range(self, name: str) -> Iterator[None]:
        """In NVTX too, for Nsight."""
        with torch.profiler.record_function(name), torch.cuda.nvtx.range(name):
            yield

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self.torch_device)

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info(self.torch_device)[0]

    def free(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.torch_device)


class CudaReading:
    """A copy into pinned memory, behind what the stream was told before."""

    def __init__(self, sums: Tensor, alike: Tensor, ranks: Ranks) -> None:
        if ranks.world_size > 1:
            work = dist.all_reduce(sums, async_op=True)
            assert work is not None
            work.wait()  # makes the stream wait, not the host
        self._sums, self._alike = _to_host(sums), _to_host(alike)
        self._event = torch.cuda.current_stream().record_event()

    def has_arrived(self) -> bool:
        return self._event.query()

    def result(self) -> tuple[list[float], list[float]]:
        self._event.synchronize()
        return self._sums.tolist(), self._alike.tolist()


def _to_host(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
