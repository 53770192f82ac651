"""Data parallel: every rank has the whole model, and gradients are averaged bucket by bucket while the backward pass goes on."""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from raystage.devices.device import Precision


def data_parallel(
    module: nn.Module, reduce_precision: Precision, bucket_mib: float | None, device_ids: Sequence[int] | None = None
) -> nn.Module:
    """`module` with gradients averaged over the ranks; in bf16 they travel at half the size, and are added up in it.

    `bucket_mib`: [MiB] of float32 gradients that travel together; None: as torch has it, 25. The first bucket is smaller, 1 at most.

    Gradients are views into the buckets that travel, so that a step without accumulation has them in memory once. No `static_graph`: it
    saves a search for unused parameters, which is off anyhow, and asks that all passes be alike, where only the last one of a step
    exchanges anything.
    """
    wrapped = DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True, bucket_cap_mb=bucket_mib)
    wrapped.broadcast_buffers = False  # they never change; the argument of that name is deprecated, and the new one not yet in torch 2.9
    if reduce_precision == "bf16":
        wrapped.register_comm_hook(wrapped.process_group, _average_in_bf16)
    return wrapped


def _average_in_bf16(group: dist.ProcessGroup, bucket: dist.GradBucket) -> Future[Tensor]:
    """torch's own hook, which DDP refuses by its name where there is no NCCL; gloo adds up bf16 too."""
    return bf16_compress_hook(group, bucket)
