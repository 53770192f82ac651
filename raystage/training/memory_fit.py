"""The micro-batch, and the activation checkpointing, that fit into a worker's memory, by what is predicted."""

import bisect
import dataclasses
import functools

from raystage.config import Config
from raystage.devices.device import Device
from raystage.models.spec import ModelSpec
from raystage.pacing.stage import Shape
from raystage.training.errors import RehearsalError
from raystage.training.memory import peak_bytes
from raystage.training.policy import plan_of
from raystage.training.step import n_sequences_of

GIB = 2**30
_SHARE = 0.9  # of free memory: the rest is for what libraries and allocators keep for themselves
_MOST_TOKENS_ON_CPU = 16384  # more bring a CPU nothing, and take memory from its neighbours


def given_bytes(config: Config) -> int | None:
    """[bytes] of runtime.memory_gib."""
    return None if config.runtime.memory_gib is None else int(config.runtime.memory_gib * GIB)


def free_bytes(device: Device) -> int:
    """[bytes] of the device that a step may take."""
    free = device.free_bytes()
    assert free is not None, "a configuration for such a device has its micro-batch"
    return int(_SHARE * free)


def with_choices(config: Config, spec: ModelSpec, budget: int, world_size: int, on_cpu: bool) -> Config:
    """`config` with a micro-batch, if it has none, and with `budget` [bytes] as runtime.memory_gib. `spec`: the last stage's model.

    Raises RehearsalError where that stage takes more than `budget` however little it does at once; what a device has free is no reason to
    refuse where the preflight tries it.
    """
    shape, training = plan_of(config).shapes()[-1], config.training
    smallest = training.micro_batch_tokens or config.model.context_length
    n_most = 0 if training.activation_checkpointing == "none" else spec.n_layer
    least = step_peak_bytes(config, spec, shape, smallest, world_size, n_most)
    given, is_tried = config.runtime.memory_gib, training.preflight and not (training.strategy == "fsdp" and world_size > 1)
    if least > budget and (given is not None or not is_tried):
        room = f"runtime.memory_gib={given}" if given is not None else f"a worker has {budget / GIB:.3g} GiB free"
        raise RehearsalError(
            f"{room}: the last stage takes {least / GIB:.3g} GiB with {smallest} tokens at a time; "
            f"{'raise it' if given is not None else 'give it more'}, or lower "
            f"{'training.micro_batch_tokens' if training.micro_batch_tokens else 'model.n_layer or model.d_model'}"
        )
    chosen = training.micro_batch_tokens or _micro_batch(config, spec, shape, budget, world_size, on_cpu)
    return dataclasses.replace(
        config,
        training=dataclasses.replace(training, micro_batch_tokens=chosen),
        runtime=dataclasses.replace(config.runtime, memory_gib=budget / GIB),
    )


def _micro_batch(config: Config, spec: ModelSpec, shape: Shape, budget: int, world_size: int, on_cpu: bool) -> int:
    """[tokens] of as many sequences, a power of two, as there is room for; with as few blocks checkpointed as may be.

    Enough for what a worker has in a step, and no more than pays on its device; one at least.
    """
    context = config.model.context_length
    n_mine = -(-n_sequences_of(shape, config.training, context) // world_size)
    most = _MOST_TOKENS_ON_CPU // context if on_cpu else 2 * n_mine
    n_blocks = spec.n_layer if config.training.activation_checkpointing == "full" else 0

    def fits(at_once: int) -> bool:
        return step_peak_bytes(config, spec, shape, at_once * context, world_size, n_blocks) <= budget

    at_once = 1
    while at_once < n_mine and 2 * at_once <= most and fits(2 * at_once):
        at_once *= 2
    return at_once * context


def n_checkpointed(config: Config, spec: ModelSpec, world_size: int) -> int:
    """How many blocks of a model are checkpointed in a run, at any length: under `auto` as few as fit its memory in the longest."""
    if config.training.activation_checkpointing == "auto":
        return _fewest(config, spec, world_size)
    return spec.n_layer if config.training.activation_checkpointing == "full" else 0


@functools.lru_cache
def _fewest(config: Config, spec: ModelSpec, world_size: int) -> int:
    shape, budget = plan_of(config).shapes()[-1], given_bytes(config)
    assert budget is not None, "fitted has put it there"
    return bisect.bisect_left(
        range(spec.n_layer), True, key=lambda n: step_peak_bytes(config, spec, shape, config.training.micro_batch, world_size, n) <= budget
    )


def step_peak_bytes(config: Config, spec: ModelSpec, shape: Shape, micro_batch_tokens: int, world_size: int, n_blocks: int) -> int:
    """[bytes] at the peak of a step of a stage on one of so many workers, so many blocks checkpointed."""
    length = shape.seq_len_tokens
    n_mine = -(-n_sequences_of(shape, config.training, config.model.context_length) // world_size)
    at_once = min(n_mine, max(1, micro_batch_tokens // length))
    return peak_bytes(config, spec, length, at_once * length, n_mine > at_once, world_size, n_blocks)
