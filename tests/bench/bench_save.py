"""How long a save stops training, against one copy of the state in host memory: 50M parameters with AdamW on two ranks."""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from raystage.config import Config, from_tree
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.growth.tensors import TrainingTensors
from raystage.pacing.stage import Shape
from raystage.pacing.state import State
from raystage.training.checkpoint_files import flatten_states
from raystage.training.checkpoint_writing import CheckpointWriter
from raystage.training.counters import Counters
from raystage.training.manifest import Manifest
from raystage.training.saver import Saver
from raystage.training.state import assemble
from tests.bench.bench_step import SPEC as STEP_SPEC
from tests.bench.result import Result
from tests.gang import gang_of

PAIRS, N_RANKS = 7, 2
SPEC = dataclasses.replace(STEP_SPEC, vocab_size=24576, n_layer=12, d_model=512, n_head=8, n_kv_head=8, d_ff=2048)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one rank: ratios of save to copy, by the clock and by CPU time; seconds of the last of each, and until all is on disk."""

    ratios: tuple[float, ...]
    cpu_ratios: tuple[float, ...]
    save_s: float
    copy_s: float
    whole_s: float


def run(strategy: str = "fsdp") -> Result:
    """The rank that waits longest counts."""
    config = from_tree({"training": {"strategy": strategy}, "checkpoint": {"keep_last": 1, "keep_best": 0}})
    with tempfile.TemporaryDirectory() as folder, gang_of(N_RANKS, Path(folder)) as gang:
        found: list[Measured] = gang(_measure, config, Path(folder))
    slowest = max((each for each in found if each.ratios), key=lambda each: statistics.median(each.ratios))
    detail = (
        f"{statistics.median(slowest.cpu_ratios):.2f} x by CPU time; stops for {slowest.save_s:.3f} s, a copy {slowest.copy_s:.3f} s; "
        f"on disk after {slowest.whole_s:.1f} s"
    )
    return Result(
        f"a save under {strategy}, {N_RANKS} ranks", "one host copy of a rank's state", "x", slowest.ratios, "<= 1.5", detail, "<= 1.5"
    )


def _measure(ranks: Ranks, config: Config, folder: Path) -> Measured:
    machinery = assemble(SPEC, config, pick_device("cpu"), ranks)
    for p in machinery.model.parameters():
        p.grad = torch.zeros_like(p)
    machinery.optimizer.step()
    machinery.optimizer.zero_grad(set_to_none=True)
    if config.training.strategy == "ddp" and not ranks.is_first:
        return Measured((), (), 0.0, 0.0, 0.0)  # rank 0 writes
    ratios, cpu_ratios = [], []
    mine = _mine(machinery.tensors())
    room = [torch.empty_like(tensor, device="cpu") for tensor in mine]  # memory that is there already, as the saver's is
    with Saver(CheckpointWriter(folder), config.checkpoint, ranks) as saver:
        for number in range(PAIRS + 1):  # the first warms up
            _in_step(ranks, config)
            begin_s, begin_cpu_s = time.perf_counter(), time.thread_time()
            saver.save(_manifest(number, ranks), machinery.model.config, machinery.tensors())  # type: ignore[arg-type]
            save_s, save_cpu_s = time.perf_counter() - begin_s, time.thread_time() - begin_cpu_s
            saver.wait()
            whole_s = time.perf_counter() - begin_s
            _in_step(ranks, config)
            copy_s, copy_cpu_s = _copy(mine, room)
            ratios.append(save_s / copy_s)
            cpu_ratios.append(save_cpu_s / copy_cpu_s)
    return Measured(tuple(ratios[1:]), tuple(cpu_ratios[1:]), save_s, copy_s, whole_s)


def _in_step(ranks: Ranks, config: Config) -> None:
    """As ranks are in training, so that none copies while another still writes."""
    if config.training.strategy == "fsdp":
        ranks.wait()


def _copy(tensors: list[Tensor], room: list[Tensor]) -> tuple[float, float]:
    """Seconds to copy what this rank holds, by the clock and of CPU time."""
    begin_s, begin_cpu_s = time.perf_counter(), time.thread_time()
    for tensor, place in zip(tensors, room, strict=True):
        place.copy_(tensor)
    return time.perf_counter() - begin_s, time.thread_time() - begin_cpu_s


def _mine(tensors: TrainingTensors) -> list[Tensor]:
    named = [*tensors.parameters.values(), *flatten_states(tensors.states).values()]
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in named]


def _manifest(number: int, ranks: Ranks) -> Manifest:
    return Manifest(
        run_name="bench",
        attempt=1,
        reason="interval",
        pinned=False,
        spec=SPEC,
        shape=Shape(SPEC.context_length, SPEC.n_layer, SPEC.d_model, 8192),
        taken=(0,),
        counters=Counters(step=number),
        controller=State.at((0,), 0, 0),
        unresolved=(),
        decisions=(),
        seed=0,
        corpus_digest="",
        world_size=ranks.world_size,
        mlflow_run_id=None,
        val_loss=None,
    )


def main() -> None:
    """Both strategies."""
    for strategy in ("ddp", "fsdp"):
        print(run(strategy).line(), flush=True)


if __name__ == "__main__":
    main()
