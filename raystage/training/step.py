"""One optimizer step on one rank."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raystage.config.schema import Training
from raystage.data.batch import Batch, document_mask
from raystage.devices import Device
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
    for i, micro_batch in enumerate(micro_batches):
        micro_batch = micro_batch.to(device.torch_device)
        extra = document_mask(micro_batch.inputs_BL, eot_id) if eot_id is not None else ()
        with _sync_on(machinery.wrapped, last=i == len(micro_batches) - 1):
            with device.autocast(settings.precision):
                loss = machinery.wrapped(micro_batch.inputs_BL, micro_batch.targets_BL, *extra)
            # DDP averages over ranks; the world size turns that into the sum
            (loss * (world_size / global_tokens)).backward()
        total += loss.detach()
    clip_norm = settings.optimizer.clip_norm
    grad_norm = nn.utils.clip_grad_norm_(machinery.model.parameters(), float("inf") if clip_norm is None else clip_norm)
    machinery.optimizer.step()
    machinery.optimizer.zero_grad(set_to_none=True)
    return total, grad_norm


def _sync_on(module: nn.Module, last: bool) -> contextlib.AbstractContextManager[object]:
    """Gradients travel once a step: on the last micro-batch."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return contextlib.nullcontext()
