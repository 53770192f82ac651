"""A copy of the training state in host memory, from which a checkpoint is written while training goes on.

Blocks of memory are kept from one copy to the next: fresh ones cost more than the copying, page-locked ones for a GPU much more.
"""

import dataclasses

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement

from raystage.growth.tensors import OptimizerState, TrainingTensors

_Key = tuple[str, str]  # parameter and field of optimizer state, "" for the parameter itself


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How a tensor is spread over the ranks."""

    placements: tuple[Placement, ...]
    shape: torch.Size
    stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class HostCopy:
    """A rank's part of every tensor, on the CPU, and how the whole is cut where it is. `is_own`: a copy, and not training's memory."""

    parts: dict[_Key, Tensor]
    cuts: dict[_Key, _Cut]
    optimizer: str
    is_own: bool

    def tensors(self, mesh: DeviceMesh | None) -> TrainingTensors:
        """As they were; sharded ones on `mesh`, the ranks that write. Slow for many tensors, so not while training waits."""
        parameters: dict[str, Tensor] = {}
        states: dict[str, OptimizerState] = {}
        for (name, field), part in self.parts.items():
            tensor = part
            if (cut := self.cuts.get((name, field))) is not None:
                assert mesh is not None
                tensor = DTensor.from_local(part, mesh, cut.placements, run_check=False, shape=cut.shape, stride=cut.stride)
            if field:
                states.setdefault(name, {})[field] = tensor
            else:
                parameters[name] = tensor
        return TrainingTensors(parameters, states, self.optimizer)


class HostMemory:
    """Makes copies; the memory of one that is given back serves the next."""

    def __init__(self) -> None:
        self._free: dict[_Key, Tensor] = {}

    @torch.no_grad()
    def copy(self, tensors: TrainingTensors, frozen: bool) -> HostCopy:
        """Returns once all is in host memory. `frozen`: what lies there already is not copied."""
        free = {} if frozen else self._free
        if not frozen:
            self._free = {}
        parts, cuts = {}, {}
        for key, tensor in _each(tensors):
            part = tensor
            if isinstance(tensor, DTensor):
                part, cuts[key] = tensor.to_local(), _Cut(tuple(tensor.placements), tensor.shape, tensor.stride())
            is_safe = frozen and part.device.type == "cpu"
            parts[key] = part.detach() if is_safe else _block(free.get(key), part).copy_(part, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.parameters.values()):
            torch.cuda.current_stream().synchronize()
        return HostCopy(parts, cuts, tensors.optimizer, not frozen)

    def give_back(self, copy: HostCopy) -> None:
        """Nobody looks at it any more."""
        if copy.is_own:
            self._free = copy.parts


def _each(tensors: TrainingTensors) -> list[tuple[_Key, Tensor]]:
    parameters = [((name, ""), tensor) for name, tensor in tensors.parameters.items()]
    return parameters + [((name, field), tensor) for name, fields in tensors.states.items() for field, tensor in fields.items()]


def _block(free: Tensor | None, like: Tensor) -> Tensor:
    if free is not None and free.shape == like.shape and free.dtype == like.dtype:
        return free
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
