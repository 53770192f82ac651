"""Growth of a model that FSDP2 has sharded: each parameter is made whole, grown, and cut again before the next one is touched.

No rank ever holds more than its shards and one parameter. Every rank computes the whole of that parameter, noise included,
so the result is the unsharded one, bit for bit, on any number of ranks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from raystage.growth.errors import GrowthError
from raystage.growth.grow import Place
from raystage.growth.tensors import OptimizerState

Shard = Callable[[nn.Module], object]  # in place; gives the root that it sharded where that is a module around the model


def is_sharded(parameters: dict[str, Tensor]) -> bool:
    """Whether any of them is spread over ranks."""
    return any(isinstance(p, DTensor) for p in parameters.values())


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank. All ranks call it in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check_cut(parameters: dict[str, Tensor], states: dict[str, OptimizerState], optimizer: str) -> None:
    """Raises GrowthError for optimizer state that is not cut as its parameter is."""
    for name, fields in states.items():
        for field, tensor in fields.items():
            if tensor.dim() and tensor.shape != parameters[name].shape:
                raise GrowthError(
                    f"{optimizer}: its {field!r} is not cut as its parameter is, so growth of sharded models cannot carry it; "
                    "reset_optimizer drops it"
                )


def allocate(model: nn.Module, shard: Shard, device: torch.device) -> None:
    """Shards the empty `model`, on the meta device but for its buffers, and gives it memory for its shards, not yet filled."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    root = shard(model)
    (root if isinstance(root, nn.Module) else model).to_empty(device=device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.tie_weights()  # type: ignore[operator]


def sharded_like(model: nn.Module, shard: Shard, parameters: dict[str, Tensor], sources: dict[str, str | None]) -> tuple[nn.Module, Place]:
    """The empty `model`, sharded and with memory for its shards, and the function that puts grown tensors there.

    `model`: on the meta device but for its buffers; `parameters`: the small model's; `sources`: which of them each comes from.
    """
    sample = next(iter(parameters.values()))
    for name, p in model.named_parameters():
        source = sources[name]
        # not the buffers: rotary frequencies stay in float32
        p.data = p.data.to(sample.dtype if source is None else parameters[source].dtype)
    allocate(model, shard, sample.device)
    targets = dict(model.named_parameters())

    def place(name: str, field: str | None, tensor: Tensor) -> Tensor:
        target = targets[name].data
        if not isinstance(target, DTensor) or not tensor.dim():
            return target.copy_(tensor) if field is None else tensor
        # every rank has the whole, so nothing travels
        cut = distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)
        if field is not None:
            return cut
        target.to_local().copy_(cut.to_local())
        return target

    return model, place
