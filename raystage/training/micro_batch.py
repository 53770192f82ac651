"""The two halves of a step on one rank: forward and backward on one micro-batch, and the update."""

from torch import Tensor, nn

from raystage.config.schema import Optimizer, Training
from raystage.data.batch import Batch, document_mask
from raystage.devices.device import Device
from raystage.growth.sharded import full
from raystage.training.adaptive_clip import clip_to_weights_
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


def clip_and_update(machinery: Machinery, settings: Optimizer) -> Tensor:
    """One optimizer step on gradients scaled down to `clip_ratio`, then to `clip_norm`; the norm that they had. They are kept."""
    parameters = list(machinery.model.parameters())
    largest = float("inf") if settings.clip_norm is None else settings.clip_norm
    if settings.clip_ratio is None:
        grad_norm = nn.utils.clip_grad_norm_(parameters, largest)
    else:
        grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        clip_to_weights_(machinery.trainee, settings.clip_ratio)
        nn.utils.clip_grad_norm_(parameters, largest)
    machinery.optimizer.step()
    return full(grad_norm)
