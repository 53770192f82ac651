"""One optimizer step on one rank."""

import contextlib

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from raystage.config.schema import Training
from raystage.data.batch import Batch
from raystage.data.step_cut import most_micro_batches
from raystage.devices.at_once import sequences_at_once
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.pacing.stage import Shape
from raystage.training.machinery import Machinery
from raystage.training.micro_batch import clip_and_update, forward_backward
from raystage.training.sharding import stays_whole


def train_step(
    machinery: Machinery,
    batch: Batch,
    global_tokens: int,
    ranks: Ranks,
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
    micro_batches = _micro_batches(batch, ranks, device, settings, n_sequences or len(batch.inputs_BL))
    # gradients are averaged over the ranks' shares; their number turns that into the sum
    weight = device.shares(ranks)[1] / global_tokens
    total = torch.zeros((), dtype=torch.float64, device=device.torch_device)
    for i, micro_batch in enumerate(micro_batches):
        is_last = i == len(micro_batches) - 1
        with sync_on(machinery, is_last, settings):
            total += forward_backward(machinery, micro_batch, weight, device, settings, eot_id)
        if not is_last:
            device.flush()  # or one program would hold all of them
    device.average_gradients(machinery.model.parameters(), ranks)
    with device.range("update"):
        grad_norm = clip_and_update(machinery, settings.optimizer)
    machinery.optimizer.zero_grad(set_to_none=True)
    device.flush()
    return total, grad_norm


def n_sequences_of(shape: Shape, settings: Training, context_length: int) -> int:
    """Sequences of a stage's step, over all ranks."""
    length = shape.seq_len_tokens if settings.batch_rule == "tokens" else context_length
    return max(1, shape.batch_tokens // length)


def _micro_batches(batch: Batch, ranks: Ranks, device: Device, settings: Training, n_sequences: int) -> list[Batch]:
    _, n_shares = device.shares(ranks)
    at_once = sequences_at_once(settings.micro_batch, batch.inputs_BL.shape[1], n_sequences, device, ranks)
    return batch.split(at_once, most_micro_batches(n_sequences, n_shares, at_once), alike=device.is_lazy)


def sync_on(machinery: Machinery, last: bool, settings: Training) -> contextlib.AbstractContextManager[object]:
    """Gradients travel once a step: on the last micro-batch. Those of a large sharded model, and its parameters, with each."""
    if isinstance(machinery.trainee, FSDPModule):
        waits = not last and stays_whole(machinery.n_parameters)
        machinery.trainee.set_reshard_after_backward(not waits)
        # FSDP2 adds up what waits in the precision in which it is to travel, too coarse for many micro-batches
        machinery.trainee.set_requires_gradient_sync(not waits or settings.reduce_precision == "bf16")
    elif isinstance(machinery.wrapped, DistributedDataParallel) and not last:
        return machinery.wrapped.no_sync()
    return contextlib.nullcontext()
