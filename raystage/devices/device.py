"""The protocol of a device, and the choice of one."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from raystage.devices.profile import Profile
from raystage.devices.programs import Programs
from raystage.devices.ranks import Ranks
from raystage.devices.reading import Reading

Precision = Literal["float32", "bf16"]


class Device(Protocol):
    @property
    def torch_device(self) -> torch.device:
        """Where tensors go."""
        ...

    @property
    def backend(self) -> Literal["gloo", "nccl"]:
        """What ranks exchange with each other by."""
        ...

    @property
    def name(self) -> str:
        """What the hardware calls itself, for records."""
        ...

    @property
    def is_lazy(self) -> bool:
        """Whether operations gather until `flush`, into a program that is compiled once for all that are alike: shapes are to be few."""
        ...

    @property
    def n_devices(self) -> int:
        """How many devices share each micro-batch."""
        ...

    @property
    def n_hosts(self) -> int:
        """How many workers these devices belong to, which run one program together."""
        ...

    def shares(self, ranks: Ranks) -> tuple[int, int]:
        """Which share of a batch this rank computes, and how many shares there are: a rank's, or all of it where ranks run one program."""
        ...

    def prepare(self, threads: int, deterministic: bool) -> None:
        """Settings of this process: threads, numerics. `deterministic`: the same bits each time, where that costs speed."""
        ...

    def seed(self, number: int) -> None:
        """What dropout draws from."""
        ...

    def random_state_kept(self) -> contextlib.AbstractContextManager[object]:
        """A context after which generators of torch stand where they stood."""
        ...

    def autocast(self, precision: Precision) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass."""
        ...

    def full_float32(self) -> contextlib.AbstractContextManager[object]:
        """A context in which products of float32 matrices are not rounded to fewer bits before they are added."""
        ...

    def wrap(self, module: nn.Module, reduce_precision: Precision, bucket_mib: float | None) -> nn.Module:
        """`module` with gradients averaged over the ranks of the process group, where they travel in this precision, [MiB] at once."""
        ...

    def average_gradients(self, parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
        """Over the ranks' shares, where no wrapper has done so by now."""
        ...

    def place(self, tensor: Tensor) -> Tensor:
        """Sequences, shape (B, ...), on the device, without waiting."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """A part of the training state on the device, or on each of several; itself where it is there."""
        ...

    def flush(self) -> None:
        """Begins with what has gathered. Without effect where nothing does."""
        ...

    def read(self, to_sum: list[Tensor], alike: list[Tensor], ranks: Ranks) -> Reading:
        """Sends numbers to the host, without waiting: `to_sum` added up over the ranks, `alike` on each of them. Every rank calls it."""
        ...

    def synchronize(self) -> None:
        """Waits until the device has done what it was told."""
        ...

    def programs(self) -> Programs:
        """What has been compiled by now."""
        ...

    def profile(self) -> Profile:
        """A profile to start and to stop."""
        ...

    def range(self, name: str) -> contextlib.AbstractContextManager[object]:
        """A context whose work has a name in profiles."""
        ...

    def peak_bytes(self) -> int | None:
        """The most memory of the device in use since `free`; None where it is not counted."""
        ...

    def free_bytes(self) -> int | None:
        """Memory that nobody uses, of the device, or of the machine where that is a CPU; None where it is not counted."""
        ...

    def free(self) -> None:
        """Gives cached memory back, and begins to count anew."""
        ...


def pick_device(name: Literal["auto", "cpu", "cuda", "xla"], local_rank: int = 0, cache: Path | None = None) -> Device:
    """The device of that name; `auto` is cuda where there is one. Raises ValueError for a device that is not there.

    `cache`: where XLA keeps compiled programs for later processes.
    """
    from raystage.devices.cpu import Cpu
    from raystage.devices.cuda import Cuda

    if name == "xla":
        from raystage.devices.xla import open_xla

        return open_xla(cache)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return Cpu()
    if not torch.cuda.is_available():
        raise ValueError(
            "runtime.device=cuda: torch sees no CUDA device here; install its CUDA build, mend the driver, or use runtime.device=cpu"
        )
    return Cuda(local_rank)
