"""One CUDA device a worker: nccl between ranks."""

import contextlib
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Cuda:
    backend: Literal["nccl"] = "nccl"

    def __init__(self, local_rank: int = 0) -> None:
        self.torch_device = torch.device("cuda", local_rank % torch.cuda.device_count())

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.torch_device)

    def prepare(self, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.cuda.set_device(self.torch_device)
        torch.set_float32_matmul_precision("high")

    def autocast(self, precision: Literal["float32", "bf16"]) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cuda", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    def wrap(self, module: nn.Module) -> nn.Module:
        return DistributedDataParallel(module, device_ids=[self.torch_device.index])
