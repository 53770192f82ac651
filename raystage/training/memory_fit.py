"""The micro-batch that fits into a worker's memory, by what is foretold of the largest stage."""

import dataclasses

from raystage.config import Config
from raystage.devices import Device
from raystage.devices.ranks import Ranks
from raystage.models.family import ModelSpec
from raystage.pacing.stage import Shape
from raystage.training.job import Job
from raystage.training.memory import peak_bytes
from raystage.training.out_of_memory import RehearsalError
from raystage.training.policy import plan_of
from raystage.training.step import n_sequences_of

GIB = 2**30
_SHARE = 0.9  # of free memory: the rest is for what libraries and allocators keep for themselves
_MOST_TOKENS_ON_CPU = 16384  # more bring a CPU nothing, and take memory from its neighbours


def fitted(job: Job, device: Device, ranks: Ranks) -> Job:
    """The job with a micro-batch, where its configuration leaves the choice to memory; every rank calls it, and has the same.

    Raises RehearsalError where one sequence takes more than runtime.memory_gib.
    """
    if job.config.training.micro_batch_tokens is not None:
        return job
    spec, on_cpu = job.spec(plan_of(job.config).shapes()[-1]), device.torch_device.type == "cpu"
    n_sharing = ranks.on_this_host() if on_cpu else 1
    (budget,) = ranks.smallest([given_bytes(job.config) or free_bytes(device) // n_sharing])
    return dataclasses.replace(job, config=with_micro_batch(job.config, spec, budget, ranks.world_size, on_cpu))


def given_bytes(config: Config) -> int | None:
    """[bytes] of runtime.memory_gib."""
    return None if config.runtime.memory_gib is None else int(config.runtime.memory_gib * GIB)


def free_bytes(device: Device) -> int:
    """[bytes] of the device that a step may take."""
    free = device.free_bytes()
    assert free is not None, "a configuration for such a device has its micro-batch"
    return int(_SHARE * free)


def with_micro_batch(config: Config, spec: ModelSpec, budget: int, world_size: int, on_cpu: bool) -> Config:
    """`config` with as many sequences at once, a power of two, as the last stage, whose model is `spec`, has room for in `budget` [bytes].

    No more than a worker has in a step, and no more than pays on its device; one at least. Raises RehearsalError where that one takes more
    than runtime.memory_gib; what a device has free is no reason to refuse, since the preflight tries it.
    """
    context, shape = config.model.context_length, plan_of(config).shapes()[-1]
    n_mine = -(-n_sequences_of(shape, config.training, context) // world_size)
    most = _MOST_TOKENS_ON_CPU // context if on_cpu else n_mine
    least = step_peak_bytes(config, spec, shape, context, world_size)
    if config.runtime.memory_gib is not None and least > budget:
        raise RehearsalError(
            f"runtime.memory_gib={config.runtime.memory_gib}: the last stage takes {least / GIB:.3g} GiB with one sequence at a time; "
            "raise it, or lower model.n_layer, model.d_model or model.context_length"
        )
    at_once = 1
    while at_once < n_mine and 2 * at_once <= most and step_peak_bytes(config, spec, shape, 2 * at_once * context, world_size) <= budget:
        at_once *= 2
    return dataclasses.replace(config, training=dataclasses.replace(config.training, micro_batch_tokens=at_once * context))


def step_peak_bytes(config: Config, spec: ModelSpec, shape: Shape, micro_batch_tokens: int, world_size: int) -> int:
    """[bytes] at the peak of a step of a stage on one of so many workers."""
    length = shape.seq_len_tokens
    n_mine = -(-n_sequences_of(shape, config.training, config.model.context_length) // world_size)
    at_once = min(n_mine, max(1, micro_batch_tokens // length))
    return peak_bytes(config, spec, length, at_once * length, accumulates=n_mine > at_once, world_size=world_size)
