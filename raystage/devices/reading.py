"""Numbers on their way from a device to the host, while it works on."""

from typing import Protocol

import torch
from torch import Tensor


class Reading(Protocol):
    """What `Device.read` has sent for."""

    def has_arrived(self) -> bool:
        """Whether `result` would not wait."""
        ...

    def result(self) -> tuple[list[float], list[float]]:
        """The sums over the ranks and the numbers alike on each, flat, in the order given."""
        ...


def flat(tensors: list[Tensor]) -> Tensor:
    """All their numbers in one row, in float64."""
    return torch.cat([tensor.reshape(-1).double() for tensor in tensors]) if tensors else torch.zeros(0, dtype=torch.float64)
