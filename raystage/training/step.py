"""One optimizer step on one rank."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raystage.config.schema import Training
from raystage.data.batch import Batch
from raystage.devices import Device
from raystage.training.micro_batch import clip_and_update, forward_backward
from raystage.training.state import Machinery


def train_step(
    machinery: Machinery, batch: Batch, global_tokens: int, world_size: int, device: Device, settings: Training, eot_id: int | None
) -> tuple[Tensor, Tensor]:
    """Forward, backward and update on this rank's sequences. Returns the sum of its loss (float64) and the gradient norm.

    The loss of a rank is weighted by its share of the step's `global_tokens`, so uneven slices give the same
    gradient as one rank would; nothing is read back from the device.
    """
    micro_batches = batch.split(max(1, settings.micro_batch_tokens // batch.inputs_BL.shape[1]))
    total = torch.zeros((), dtype=torch.float64, device=device.torch_device)
    # DDP averages over ranks; the world size turns that into the sum
    weight = world_size / global_tokens
    for i, micro_batch in enumerate(micro_batches):
        with _sync_on(machinery.wrapped, last=i == len(micro_batches) - 1):
            total += forward_backward(machinery, micro_batch, weight, device, settings, eot_id)
    grad_norm = clip_and_update(machinery, settings.optimizer.clip_norm)
    machinery.optimizer.zero_grad(set_to_none=True)
    return total, grad_norm


def _sync_on(module: nn.Module, last: bool) -> contextlib.AbstractContextManager[object]:
    """Gradients travel once a step: on the last micro-batch."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return contextlib.nullcontext()
