"""XLA devices through PJRT: one worker a host, one program over all devices, the batch spread over them, gradients added up inside it.

SPMD (Xu et al. 2105.04663): parameters lie whole on every device, each device has its share of the sequences, and the compiler puts the
sums over devices into the program. On a slice of several hosts all workers run that one program, over the whole batch. Where there is no
such slice (CPUs), every worker has a program of its own, and the hosts average the gradients.
"""

import concurrent.futures
import contextlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raystage.devices.device import Precision
from raystage.devices.programs import Programs
from raystage.devices.ranks import Ranks
from raystage.devices.xla_profile import XlaProfile, fallbacks

if importlib.util.find_spec("torch_xla") is not None:
    import torch_xla
    import torch_xla.backends
    import torch_xla.core.xla_model as xm
    import torch_xla.debug.metrics as met
    import torch_xla.distributed.spmd as xs
    import torch_xla.runtime as xr

_DATA = "data"  # the only axis of the mesh


def open_xla(cache: Path | None) -> "Xla":
    """The XLA devices that PJRT_DEVICE names, all of this host's as one. Raises ValueError where torch_xla is not installed.

    `cache`: where compiled programs are kept for later processes. To be called before anything else touches torch_xla.
    """
    if importlib.util.find_spec("torch_xla") is None:
        raise ValueError(
            "runtime.device=xla: torch_xla is not installed here; in an environment of its own: pip install '.[xla]' in its repository"
        )
    return Xla(cache)


class Xla:
    backend: Literal["gloo"] = "gloo"
    is_lazy = True

    def __init__(self, cache: Path | None) -> None:
        if cache is not None:
            xr.initialize_cache(str(cache.expanduser()), readonly=False)
        xr.use_spmd()
        self.torch_device = torch_xla.device()
        self._n_devices = xr.global_runtime_device_count()
        self._mesh = xs.Mesh(np.arange(self._n_devices), (self._n_devices,), (_DATA,))
        self._reader = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="xla-reader")

    @property
    def name(self) -> str:
        return f"{os.environ.get('TPU_ACCELERATOR_TYPE') or xr.device_type()} x {self._n_devices}"

    @property
    def n_devices(self) -> int:
        return self._n_devices

    @property
    def n_hosts(self) -> int:
        """Of this slice, where it is one: its mesh goes over all of them."""
        return int(xr.process_count())

    def shares(self, ranks: Ranks) -> tuple[int, int]:
        return (0, 1) if self.n_hosts > 1 else (ranks.rank, ranks.world_size)

    def prepare(self, threads: int, deterministic: bool) -> None:
        torch.set_num_threads(threads)

    def seed(self, number: int) -> None:
        torch.manual_seed(number)
        xm.set_rng_state(number, str(self.torch_device))

    @contextlib.contextmanager
    def random_state_kept(self) -> Iterator[None]:
        state = xm.get_rng_state(str(self.torch_device))
        try:
            with torch.random.fork_rng(devices=[]):
                yield
        finally:
            xm.set_rng_state(state, str(self.torch_device))

    def autocast(self, precision: Literal["float32", "bf16"]) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("xla", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    @contextlib.contextmanager
    def full_float32(self) -> Iterator[None]:
        if xr.device_type() != "TPU":  # the others round nothing
            yield
            return
        usual = torch_xla.backends.get_mat_mul_precision()
        torch_xla.backends.set_mat_mul_precision("highest")
        try:
            yield
        finally:
            torch_xla.backends.set_mat_mul_precision(usual)

    def wrap(self, module: nn.Module, reduce_precision: Precision, bucket_mib: float | None) -> nn.Module:
        return module

    def average_gradients(self, parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
        if self.shares(ranks)[1] == 1:
            return
        self.flush()
        parameters = [p for p in parameters if p.grad is not None]
        on_host = [p.grad.cpu() for p in parameters if p.grad is not None]
        row = torch.cat([gradient.reshape(-1) for gradient in on_host])
        dist.all_reduce(row, group=ranks.control)
        row /= ranks.world_size
        for p, piece in zip(parameters, row.split([gradient.numel() for gradient in on_host]), strict=True):
            p.grad = piece.reshape(p.shape).to(self.torch_device)

    def place(self, tensor: Tensor) -> Tensor:
        placed = tensor.to(self.torch_device)
        xs.mark_sharding(placed, self._mesh, (_DATA, *(None for _ in tensor.shape[1:])))
        return placed

    def whole(self, tensor: Tensor) -> Tensor:
        """Said in so many words, as it is of what a step puts out: or the program of a first step would differ from the next ones."""
        placed = tensor.to(self.torch_device)
        xs.mark_sharding(placed, self._mesh, (None,) * tensor.dim())
        return placed

    def flush(self) -> None:
        torch_xla.sync()

    def read(self, to_sum: list[Tensor], alike: list[Tensor], ranks: Ranks) -> "XlaReading":
        self.flush()
        fetched = self._reader.submit(lambda: (_fetch(to_sum), _fetch(alike)))
        if self.shares(ranks)[1] > 1:
            sums, others = fetched.result()
            fetched = concurrent.futures.Future()
            fetched.set_result((ranks.sums(sums), others))
        return XlaReading(fetched)

    def profile(self) -> XlaProfile:
        return XlaProfile()

    def range(self, name: str) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()  # a name inside a program would make another program

    def synchronize(self) -> None:
        self.flush()
        xm.wait_device_ops()

    def programs(self) -> Programs:
        n_compiled, nanoseconds, _ = met.metric_data("CompileTime") or (0, 0.0, None)
        n_loaded = met.counter_value("PersistentCacheHit") or 0
        n_not_loadable = met.counter_value("PersistentCacheDeserializeFailure") or 0
        return Programs(n_compiled, n_loaded, n_not_loadable, nanoseconds / 1e9, fallbacks())

    def peak_bytes(self) -> None:
        return None

    def free_bytes(self) -> None:
        return None

    def free(self) -> None:
        pass


class XlaReading:
    """Copied by a thread, which waits for the device in place of training. One number at a time: to put them together would be a
    program of its own."""

    def __init__(self, fetched: "concurrent.futures.Future[tuple[list[float], list[float]]]") -> None:
        self._fetched = fetched

    def has_arrived(self) -> bool:
        return self._fetched.done()

    def result(self) -> tuple[list[float], list[float]]:
        return self._fetched.result()


def _fetch(tensors: list[Tensor]) -> list[float]:
    return [float(value) for tensor in tensors for value in tensor.cpu().reshape(-1).tolist()]
