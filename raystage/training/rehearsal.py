"""A rehearsal before step 1: the model of every stage runs once, so that memory runs out, code compiles and time is measured now.

It leaves nothing behind but compiled code: its models are its own, and the random generators stand where they stood.
Ranks rehearse each for itself, because one that runs out of memory inside a collective would leave the others waiting.
"""

import contextlib
import dataclasses
import functools
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from raystage.config.schema import Config
from raystage.data.batch import Batch
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.models.count import matmul_parameters
from raystage.models.spec import ModelSpec
from raystage.training.errors import RehearsalError
from raystage.training.machinery import Machinery
from raystage.training.micro_batch import clip_and_update, forward_backward
from raystage.training.out_of_memory import too_large, within_memory
from raystage.training.state import assemble


@dataclasses.dataclass(frozen=True)
class Timing:
    """Forward and backward of one micro-batch of `tokens` took `seconds`, compiled code being ready."""

    spec: ModelSpec
    seq_len_tokens: int
    n_parameters: int
    tokens: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """`micro_batch_tokens`: what fits on every rank. The rest is this rank's: `timings`, in the order asked for; `update_s`: one
    optimizer step of the largest model; `compile_s`: compiling, first runs included; `peak_bytes`: of device memory, None on CPUs.
    """

    micro_batch_tokens: int
    timings: tuple[Timing, ...]
    update_s: float
    compile_s: float
    peak_bytes: int | None

    @property
    def seconds(self) -> tuple[float, ...]:
        """Seconds of one micro-batch of each stage."""
        return tuple(timing.seconds for timing in self.timings)


def rehearse(
    config: Config,
    specs_and_lengths: Sequence[tuple[ModelSpec, int]],
    device: Device,
    ranks: Ranks,
    micro_batch_tokens: int,
    alive: Callable[[], object] = lambda: None,
) -> Rehearsal:
    """Runs every (model, sequence length [tokens]) once on random tokens; the micro-batch is halved until all of them fit.

    Every rank calls it, after `device.prepare`, with at least one pair. `micro_batch_tokens`: the largest micro-batch of the run, so
    at most a rank's share of a step. `alive`: called after every pass, since compiling many takes long. Raises RehearsalError, on every
    rank, when a stage does not fit one sequence at a time.
    """
    lone = _Rehearser(config, device, ranks.world_size, micro_batch_tokens, alive)
    too_large: RehearsalError | None = None
    with _random_numbers_kept(device):
        try:
            lone.run(specs_and_lengths)
        except RehearsalError as error:
            too_large = error
    (agreed,) = ranks.smallest([0 if too_large else lone.micro_batch_tokens])
    if too_large is not None:
        raise too_large
    if agreed == 0:
        raise RehearsalError("another worker ran out of memory with one sequence at a time; its own message says at which size")
    timings = tuple(lone.timings[pair] for pair in specs_and_lengths)
    return Rehearsal(agreed, timings, lone.update_s, lone.compile_s, lone.peak_bytes)


def seconds_per_token(rehearsal: Rehearsal, batch_tokens: int, world_size: int) -> tuple[float, ...]:
    """Expected seconds of one token of each stage in steps of `batch_tokens` over all ranks, the exchange of gradients not counted.

    The time of an update is taken to grow with the parameters.
    """
    largest = max(timing.n_parameters for timing in rehearsal.timings)
    return tuple(
        timing.seconds / timing.tokens / world_size + rehearsal.update_s * timing.n_parameters / largest / batch_tokens
        for timing in rehearsal.timings
    )


class _Rehearser:
    """One rank's rehearsal: `micro_batch_tokens` shrinks as memory runs out."""

    def __init__(self, config: Config, device: Device, world_size: int, micro_batch_tokens: int, alive: Callable[[], object]) -> None:
        self._config, self._device, self._world_size, self._alive = config, device, world_size, alive
        self.micro_batch_tokens = micro_batch_tokens
        self.timings: dict[tuple[ModelSpec, int], Timing] = {}
        self.update_s = self.compile_s = 0.0
        self.peak_bytes: int | None = None

    def run(self, specs_and_lengths: Sequence[tuple[ModelSpec, int]]) -> None:
        """The heaviest first, so that memory runs out at once if it does. Raises RehearsalError."""
        specs = sorted({spec for spec, _ in specs_and_lengths}, key=matmul_parameters, reverse=True)
        for spec in specs:
            lengths = sorted({length for other, length in specs_and_lengths if other == spec}, reverse=True)
            self._run_size(spec, lengths, is_largest=spec == specs[0])
            self._note_peak()
            self._free()

    def _note_peak(self) -> None:
        if (peak_bytes := self._device.peak_bytes()) is not None:
            self.peak_bytes = max(self.peak_bytes or 0, peak_bytes)

    def _free(self) -> None:
        gc.collect()
        self._device.free()

    def _run_size(self, spec: ModelSpec, lengths: list[int], is_largest: bool) -> None:
        # ranks of this process alone: no wrapper that exchanges gradients
        machinery = within_memory(lambda: assemble(spec, self._config, self._device, Ranks(), n_workers=self._world_size))
        if machinery is None:
            raise too_large(spec, lengths[0], self._device.name)
        for length in lengths:
            attempt = functools.partial(self._time, machinery, length, is_largest)
            while (timing := within_memory(attempt)) is None:
                machinery.optimizer.state.clear()
                machinery.optimizer.zero_grad(set_to_none=True)
                self._free()
                if self.micro_batch_tokens < 2 * length:
                    raise too_large(spec, length, self._device.name)
                self.micro_batch_tokens //= 2
            self.timings[spec, length] = timing

    def _time(self, machinery: Machinery, length: int, with_update: bool) -> Timing:
        """One micro-batch timed, the runs before it not; with an update, all that a step keeps in memory is there meanwhile."""
        n_sequences = max(1, self.micro_batch_tokens // length)
        compiled = self._config.training.compile
        first = [n_sequences] * 2 if self._device.is_lazy else _warm_up(n_sequences, compiled)
        warming_s = sum(self._pass(machinery, n, length) for n in first)
        self.compile_s += warming_s if compiled else 0.0
        buckets = None
        if with_update:
            self._update(machinery)
            # where gradients are exchanged, those that add up lie beside the buckets that travel
            buckets = [torch.empty_like(p) for p in machinery.model.parameters()] if self._world_size > 1 else None
        seconds = self._pass(machinery, n_sequences, length)
        if with_update:
            self.update_s = self._update(machinery)
        del buckets
        return Timing(machinery.spec, length, machinery.n_parameters, n_sequences * length, seconds)

    def _pass(self, machinery: Machinery, n_sequences: int, length: int) -> float:
        """Seconds of forward and backward on random tokens."""
        # two tensors of their own: one sequence sliced off a longer one keeps its stride, and code compiled for it is of no use later
        generator, shape = torch.Generator().manual_seed(0), (n_sequences, length)
        batch = Batch(*(torch.randint(machinery.spec.vocab_size, shape, generator=generator) for _ in range(2)))
        eot_id = None if self._config.data.attend_across_documents else machinery.spec.eot_id
        weight = 1.0 / (n_sequences * length)
        return self._seconds(lambda: forward_backward(machinery, batch, weight, self._device, self._config.training, eot_id))

    def _update(self, machinery: Machinery) -> float:
        return self._seconds(lambda: clip_and_update(machinery, self._config.training.optimizer))

    def _seconds(self, action: Callable[[], object]) -> float:
        begin_s = time.perf_counter()
        action()
        self._device.synchronize()
        seconds = time.perf_counter() - begin_s
        self._alive()
        return seconds


def _warm_up(n_sequences: int, compiled: bool) -> list[int]:
    """How many sequences to run before the timed ones: compiled code is one for a single sequence and one for several."""
    return list(dict.fromkeys([n_sequences, 1])) if compiled else [1]


@contextlib.contextmanager
def _random_numbers_kept(device: Device) -> Iterator[None]:
    """The generators of torch, numpy and Python stand afterwards where they stood before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with device.random_state_kept():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
