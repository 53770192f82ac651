"""The two halves of a step on one rank: forward and backward on one micro-batch, and the update."""

from torch import Tensor, nn

from raystage.config.schema import Training
from raystage.data.batch import Batch, document_mask
from raystage.devices import Device
from raystage.growth.sharded import full
from raystage.training.machinery import Machinery


def forward_backward(machinery: Machinery, batch: Batch, weight: float, device: Device, settings: Training, eot_id: int | None) -> Tensor:
    """The sum of the loss over `batch`, its gradient times `weight` added to the parameters' gradients."""
    batch = batch.on(device.place)
    extra = document_mask(batch.inputs_BL, eot_id) if eot_id is not None else ()
    with device.range("forward"), device.autocast(settings.precision):
        loss: Tensor = machinery.wrapped(batch.inputs_BL, batch.targets_BL, *extra)
    with device.range("backward"):
        (loss * weight).backward()
    return loss.detach()


def clip_and_update(machinery: Machinery, clip_norm: float | None) -> Tensor:
    """One optimizer step on gradients scaled down to `clip_norm`; the norm that they had. They are kept."""
    grad_norm = nn.utils.clip_grad_norm_(machinery.model.parameters(), float("inf") if clip_norm is None else clip_norm)
    machinery.optimizer.step()
    return full(grad_norm)
