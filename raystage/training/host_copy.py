"""A copy of the training state in host memory, from which a checkpoint is written while training goes on.

Blocks of memory are kept from one copy to the next: fresh ones cost more than the copying, page-locked ones for a GPU much more.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from raystage.growth.tensors import TrainingTensors

_Blocks = dict[tuple[str, str], Tensor]  # by parameter and field of optimizer state, "" for the parameter itself


class HostMemory:
    """`mesh`: of the ranks that write, on the CPU, for sharded tensors. One set of blocks is kept at a time."""

    def __init__(self, mesh: DeviceMesh | None) -> None:
        self._mesh = mesh
        self._free: _Blocks = {}

    def copy(self, tensors: TrainingTensors) -> TrainingTensors:
        """The tensors copied; a sharded one stays sharded."""
        free, self._free = self._free, {}

        def copied(name: str, field: str, tensor: Tensor) -> Tensor:
            block = free.pop((name, field), None)
            if block is None or block.shape != tensor.shape or block.dtype != tensor.dtype:
                block = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            return block.copy_(tensor, non_blocking=True)

        copies = self._each(tensors, copied)
        if any(tensor.is_cuda for tensor in tensors.parameters.values()):
            torch.cuda.current_stream().synchronize()
        return copies

    def as_they_are(self, tensors: TrainingTensors) -> TrainingTensors:
        """The tensors themselves where they lie in host memory, else copies."""
        return self._each(tensors, lambda name, field, tensor: tensor.cpu())

    def give_back(self, copies: TrainingTensors) -> None:
        """Memory for the next copy; nobody looks at these any more."""
        parameters = {(name, ""): _local(tensor) for name, tensor in copies.parameters.items()}
        states = {(name, field): _local(tensor) for name, fields in copies.states.items() for field, tensor in fields.items()}
        self._free = parameters | states

    def _each(self, tensors: TrainingTensors, move: Callable[[str, str, Tensor], Tensor]) -> TrainingTensors:
        parameters = {name: self._moved(name, "", tensor, move) for name, tensor in tensors.parameters.items()}
        states = {
            name: {field: self._moved(name, field, tensor, move) for field, tensor in fields.items()}
            for name, fields in tensors.states.items()
        }
        return TrainingTensors(parameters, states, tensors.optimizer)

    def _moved(self, name: str, field: str, tensor: Tensor, move: Callable[[str, str, Tensor], Tensor]) -> Tensor:
        local = move(name, field, _local(tensor.detach()))
        if not isinstance(tensor, DTensor):
            return local
        assert self._mesh is not None
        return DTensor.from_local(local, self._mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
