"""What each way to exchange gradients and parameters gains: two ranks of one thread, in turns in the same processes."""

import contextlib
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.distributed.fsdp import FSDPModule

from raystage.config import Config, from_tree
from raystage.data.batch import Batch
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.spec import ModelSpec
from raystage.training.machinery import Machinery
from raystage.training.state import assemble
from raystage.training.step import train_step
from tests.bench.bench_save import SPEC as LARGER
from tests.bench.bench_step import OF_14M
from tests.bench.result import Result, paired
from tests.gang import gang_of

PAIRS, STEPS, ROWS, N_RANKS = 5, 2, 4, 2


@dataclasses.dataclass(frozen=True)
class Way:
    """`training`: the keys of one; `fetches_ahead`: whether FSDP2 asks for the next block before it is needed."""

    training: dict[str, Any]
    fetches_ahead: bool = True


BUCKETS, IN_ONE = Way({"strategy": "ddp"}), Way({"strategy": "ddp", "bucket_mib": 1e6})
IN_BF16 = Way({"strategy": "ddp", "reduce_precision": "bf16"})
AHEAD, WHEN_NEEDED = Way({"strategy": "fsdp"}), Way({"strategy": "fsdp"}, fetches_ahead=False)


def run() -> Iterator[Result]:
    """Three lines: steps a second, one way over the other."""
    with tempfile.TemporaryDirectory() as folder, gang_of(N_RANKS, Path(folder)) as gang:
        for name, against, spec, ours, other in (
            ("DDP, buckets of 25 MB", "one bucket", OF_14M, BUCKETS, IN_ONE),
            ("DDP, gradients travel in bf16", "in float32", OF_14M, IN_BF16, BUCKETS),
            ("FSDP2, the next block fetched ahead", "when it is needed", LARGER, AHEAD, WHEN_NEEDED),
        ):
            ratios: tuple[float, ...] = gang(_measure, spec, ours, other)[0]
            yield Result(name, against, "x", ratios, "", f"{N_RANKS} ranks of one thread, gloo")


def _measure(ranks: Ranks, spec: ModelSpec, ours: Way, other: Way) -> tuple[float, ...]:
    rate, other_rate = (_stepping(ranks, spec, way) for way in (ours, other))
    return tuple(paired(rate, other_rate, PAIRS))


def _stepping(ranks: Ranks, spec: ModelSpec, way: Way) -> Callable[[], float]:
    """Steps a second, of a block of steps."""
    config, device = from_tree({"training": way.training}), pick_device("cpu")
    prefetch = mock.patch.object(FSDPModule, "set_modules_to_forward_prefetch")
    with contextlib.nullcontext() if way.fetches_ahead else prefetch:
        machinery = assemble(spec, config, device, ranks)
    tokens = torch.randint(0, spec.vocab_size, (ROWS, spec.context_length + 1))
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return functools.partial(_rate, machinery, batch, ranks, config)


def _rate(machinery: Machinery, batch: Batch, ranks: Ranks, config: Config) -> float:
    seconds = []
    for _ in range(STEPS):
        ranks.wait()
        begin_s = time.perf_counter()
        train_step(machinery, batch, N_RANKS * batch.inputs_BL.numel(), ranks, pick_device("cpu"), config.training, None)
        seconds.append(time.perf_counter() - begin_s)
    return 1 / statistics.median(seconds)


def main() -> None:
    """Prints the table."""
    for result in run():
        print(result.line(), flush=True)


if __name__ == "__main__":
    main()
