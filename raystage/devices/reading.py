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
    """All their numbers in one row, in float64; numbers first, then rows of them."""
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    numbers = [tensor for tensor in tensors if tensor.dim() == 0]
    assert all(tensor.dim() for tensor in tensors[len(numbers) :]), "numbers first"
    # one call for all of them: each takes microseconds
    return torch.cat([row.double() for row in ([torch.stack(numbers)] if numbers else []) + tensors[len(numbers) :]])
