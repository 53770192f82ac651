"""The ranks of a run: who am I, sums over all, and words from rank 0 to the others."""

import dataclasses
import datetime
import platform

import torch
import torch.distributed as dist


@dataclasses.dataclass(frozen=True)
class Ranks:
    """`control`: a gloo group for small host-side messages beside the device's own; `saving`: another for the threads that write
    checkpoints, since two threads must never share a group. None with one rank."""

    rank: int = 0
    world_size: int = 1
    control: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None

    @staticmethod
    def of_process() -> "Ranks":
        """The ranks of the process group that this process has joined; one rank where there is none."""
        if not dist.is_initialized():
            return Ranks()
        world_size = dist.get_world_size()
        if world_size == 1:
            return Ranks(dist.get_rank(), world_size)
        # the first word may come after hours of preparing data; a rank that dies is noticed at once all the same
        control = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=7))
        # storage that is slow for one rank alone lets the others wait
        saving = dist.new_group(backend="gloo", timeout=datetime.timedelta(hours=2))
        return Ranks(dist.get_rank(), world_size, control, saving)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sums(self, values: list[float]) -> list[float]:
        """Each number summed over the ranks; the length must be the same everywhere."""
        if self.control is None:
            return values
        vector = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(vector, group=self.control)
        return [float(v) for v in vector]

    def from_first(self, values: list[int]) -> list[int]:
        """Rank 0's integers, on every rank; the length must be the same everywhere."""
        if self.control is None:
            return values
        vector = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(vector, src=0, group=self.control)
        return [int(v) for v in vector]

    def text_from_first(self, text: str) -> str:
        """Rank 0's, on every rank."""
        if self.control is None:
            return text
        words = [text]
        dist.broadcast_object_list(words, src=0, group=self.control)
        return words[0]

    def smallest(self, values: list[int]) -> list[int]:
        """The smallest of each integer over the ranks; the length must be the same everywhere."""
        if self.control is None:
            return values
        vector = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(vector, dist.ReduceOp.MIN, group=self.control)
        return [int(v) for v in vector]

    def on_this_host(self) -> int:
        """How many ranks run on the machine of this one."""
        if self.control is None:
            return 1
        names: list[str | None] = [None] * self.world_size
        dist.all_gather_object(names, platform.node(), group=self.control)
        return names.count(platform.node())

    def wait(self) -> None:
        """Until every rank is here."""
        if self.control is not None:
            dist.barrier(group=self.control)
