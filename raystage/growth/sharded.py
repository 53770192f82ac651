"""Growth of a model that FSDP2 has sharded: each parameter is made whole, grown, and cut again before the next one is touched.

No rank ever holds more than its shards and one parameter. Every rank computes the whole of that parameter, noise included,
so the result is the unsharded one, bit for bit, on any number of ranks.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from raystage.growth.errors import GrowthError
from raystage.growth.grow import Place
from raystage.growth.tensors import TrainingTensors

Shard = Callable[[nn.Module], object]


def is_sharded(parameters: dict[str, Tensor]) -> bool:
    """Whether any of them is spread over ranks."""
    return any(isinstance(p, DTensor) for p in parameters.values())


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank. All ranks call it in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(model: nn.Module, shard: Shard, state: TrainingTensors) -> tuple[nn.Module, Place]:
    """The empty `model`, sharded and with memory for its shards, and the function that puts grown tensors there.

    `model`: on the meta device but for its buffers; `state`: the small model's. Raises GrowthError for optimizer state that
    is not cut as its parameter is.
    """
    for name, fields in state.states.items():
        for field, tensor in fields.items():
            if tensor.dim() and tensor.shape != state.parameters[name].shape:
                raise GrowthError(
                    f"{state.optimizer}: its {field!r} is not cut as its parameter is; growth of sharded models cannot carry it"
                )
    sample = next(iter(state.parameters.values()))
    for p in model.parameters():
        p.data = p.data.to(sample.dtype)  # not the buffers: rotary frequencies stay in float32
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    shard(model)
    model.to_empty(device=sample.device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.tie_weights()  # type: ignore[operator]
    parameters = dict(model.named_parameters())

    def place(name: str, field: str | None, tensor: Tensor) -> Tensor:
        target = parameters[name]
        if not isinstance(target.data, DTensor) or not tensor.dim():
            return target.data.copy_(tensor) if field is None else tensor
        # every rank has the whole, so nothing travels
        cut = distribute_tensor(tensor, target.data.device_mesh, target.data.placements, src_data_rank=None)
        if field is None:
            target.data.to_local().copy_(cut.to_local())
            return target.data
        return cut

    return model, place
