"""What devices have in common that run each operation as it comes."""

from collections.abc import Iterable

import torch
from torch import nn

from raystage.devices.programs import Programs
from raystage.devices.ranks import Ranks


class Eager:
    is_lazy = False
    n_devices = n_hosts = 1

    def shares(self, ranks: Ranks) -> tuple[int, int]:
        return ranks.rank, ranks.world_size

    def seed(self, number: int) -> None:
        torch.manual_seed(number)

    def average_gradients(self, parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
        """The wrapper has done it."""

    def programs(self) -> Programs:
        return Programs()

    def flush(self) -> None:
        """Nothing waits for it."""
