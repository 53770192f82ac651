"""A group of workers: what it is made for."""

import dataclasses
from collections.abc import Mapping

from raystage.training.worker_range import Workers


@dataclasses.dataclass(frozen=True)
class Group:
    """`wanted`: the range that its stage asks for; `position`: of the plan when it begins; `need`: resources of one worker."""

    number: int
    wanted: Workers
    n_workers: int
    position: int
    need: Mapping[str, float]

    @property
    def use_gpu(self) -> bool:
        return "GPU" in self.need
