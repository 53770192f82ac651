"""One optimizer step on one rank."""

import contextlib

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from raystage.config.schema import Training
from raystage.data.batch import Batch, most_micro_batches
from raystage.devices import Device
from raystage.training.micro_batch import clip_and_update, forward_backward
from raystage.training.state import Machinery

# gradients of a sharded model wait whole for the last micro-batch up to this size; beyond it, memory counts for more than traffic
_WHOLE_GRADIENT_BYTES = 2**30


def train_step(
    machinery: Machinery,
    batch: Batch,
    global_tokens: int,
    world_size: int,
    device: Device,
    settings: Training,
    eot_id: int | None,
    n_sequences: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Forward, backward and update on this rank's sequences. Returns the sum of its loss (float64) and the gradient norm.

    `n_sequences`: of the step, over all ranks; None: this rank's are all.

    The loss of a rank is weighted by its share of the step's `global_tokens`, so uneven slices give the same
    gradient as one rank would; nothing is read back from the device.
    """
    at_once = max(1, settings.micro_batch_tokens // batch.inputs_BL.shape[1])
    micro_batches = batch.split(at_once, most_micro_batches(n_sequences or 0, world_size, at_once))
    total = torch.zeros((), dtype=torch.float64, device=device.torch_device)
    # DDP and FSDP average over ranks; the world size turns that into the sum
    weight = world_size / global_tokens
    for i, micro_batch in enumerate(micro_batches):
        with _sync_on(machinery, last=i == len(micro_batches) - 1):
            total += forward_backward(machinery, micro_batch, weight, device, settings, eot_id)
    grad_norm = clip_and_update(machinery, settings.optimizer.clip_norm)
    machinery.optimizer.zero_grad(set_to_none=True)
    return total, grad_norm


def _sync_on(machinery: Machinery, last: bool) -> contextlib.AbstractContextManager[object]:
    """Gradients travel once a step: on the last micro-batch."""
    if isinstance(machinery.trainee, FSDPModule):
        machinery.trainee.set_requires_gradient_sync(last or 4 * machinery.n_parameters > _WHOLE_GRADIENT_BYTES)
    elif isinstance(machinery.wrapped, DistributedDataParallel) and not last:
        return machinery.wrapped.no_sync()
    return contextlib.nullcontext()
