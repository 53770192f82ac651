"""A group of workers: what it is made for."""

import dataclasses

from raystage.runtime.hardware import Hardware
from raystage.training.worker_range import Workers


@dataclasses.dataclass(frozen=True)
class Group:
    """`wanted`: the range that its stage asks for; `position`: of the plan when it begins."""

    number: int
    wanted: Workers
    n_workers: int
    position: int
    hardware: Hardware
