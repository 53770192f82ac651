"""Growth of GPT-2 124M against one plain copy of the grown training state: `make bench`, in more words `make bench-growth`."""

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

from raystage.devices.device import pick_device
from raystage.models.spec import ModelSpec
from tests.bench.growth_memory import extra_peak_ratio
from tests.bench.growth_state import GPT2_124M, doubled, grow_double, tensors_of, training_state
from tests.bench.result import Result, paired
from tests.bench.traffic import Traffic, state_bytes


@dataclasses.dataclass(frozen=True)
class Measured:
    """`ratios`: growth over copy, one a pair; `seconds`, `copy_seconds`: of every run, the first to warm up."""

    ratios: tuple[float, ...]
    seconds: tuple[float, ...]
    copy_seconds: tuple[float, ...]
    grown_bytes: int


def run() -> Result:
    """Twice the depth and twice the width, AdamW's state with it, symmetry broken."""
    measured = measure(GPT2_124M, pairs=3)
    return Result(
        "growth of 124M, x2 deep, x2 wide", "one copy of the grown state", "x", measured.ratios, "<= 2", _size(measured.grown_bytes)
    )


def measure(spec: ModelSpec, pairs: int) -> Measured:
    """Growth and copy in turn. Old state, grown state and its copy are in memory at once, and nothing else."""
    state = training_state(spec)
    grown = list(tensors_of(grow_double(state, spec)))
    grown_bytes = state_bytes(grown)
    seconds: list[float] = []
    copy_seconds: list[float] = []
    growing = _timed(lambda: grow_double(state, spec), seconds)
    copying = _timed(lambda: [tensor.clone() for tensor in grown], copy_seconds)
    ratios = paired(growing, copying, pairs)
    return Measured(tuple(ratios), tuple(seconds), tuple(copy_seconds), grown_bytes)


def count_traffic(spec: ModelSpec) -> Traffic:
    """Every byte that the operations of one growth read and write, what they make on the way included."""
    state = training_state(spec)
    with Traffic() as traffic:
        grow_double(state, spec)
    return traffic


def main() -> None:
    """The table of `make bench-growth`."""
    where = f"{pick_device('cpu').name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{where}; medians of paired runs, lowest to highest")
    extra_peak = extra_peak_ratio()
    measured, traffic = measure(GPT2_124M, pairs=5), count_traffic(GPT2_124M)
    old = state_bytes(tensors_of(training_state(GPT2_124M)))
    moved, copied = traffic.read_bytes + traffic.written_bytes, 2 * measured.grown_bytes
    after = doubled(GPT2_124M)
    print(f"GPT-2 124M, AdamW, float32: {GPT2_124M.n_layer} -> {after.n_layer} layers, {GPT2_124M.d_model} -> {after.d_model} channels")
    print(f"state                {_size(old)} -> {_size(measured.grown_bytes)}; layers that are new have no moments yet")
    print(f"growth               {_spread(measured.seconds[1:])} s")
    print(f"copy                 {_spread(measured.copy_seconds[1:])} s")
    print(f"growth / copy        {_spread(measured.ratios)} x, target <= 2")
    print(
        f"bytes moved          {_size(traffic.read_bytes)} read + {_size(traffic.written_bytes)} written; {moved / copied:.2f} x the copy's"
    )
    print(f"extra peak memory    {extra_peak:.2f} x the grown state, target <= 1.2")


def _timed(action: Callable[[], object], seconds: list[float]) -> Callable[[], float]:
    def timed() -> float:
        begin_s = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - begin_s)
        del result
        return seconds[-1]

    return timed


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
