"""Before step 1: the rehearsal of a run's stages, and what follows from it for the run."""

import dataclasses
from collections.abc import Callable
from typing import Any

from raystage.config.schema import Config, Training
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.pacing.stage import Shape
from raystage.training.compile_ahead import compile_ahead
from raystage.training.job import Job
from raystage.training.policy import plan_of
from raystage.training.rehearsal import rehearse, seconds_per_token
from raystage.training.sharding import shards


@dataclasses.dataclass(frozen=True)
class Preflight:
    """`settings`: those of training, with a micro-batch that fits; `record`: what was found, for metrics.jsonl."""

    settings: Training
    record: dict[str, Any]


def preflight(job: Job, device: Device, ranks: Ranks, alive: Callable[[], object] = lambda: None) -> Preflight | None:
    """Rehearses the first and the largest stage, all of them where code is compiled. Raises RehearsalError.

    `alive`: called now and then, as a sign of life. None where the model is sharded: one rank alone cannot run it, and one that runs out
    of memory would leave the others waiting.
    """
    if shards(job.config, ranks):
        return None
    settings = job.config.training
    if device.is_lazy:
        shapes = list(dict.fromkeys(plan_of(job.config).shapes()))
        ahead = compile_ahead(job, shapes, device, ranks, alive)
        found = _record(ahead.seconds_per_token, ahead.compile_s, None, shapes, settings, ahead.micro_batch_tokens)
        return Preflight(dataclasses.replace(settings, micro_batch_tokens=ahead.micro_batch_tokens), found)
    shapes = rehearsed_shapes(job.config)
    wanted = largest_micro_batch(job.config, ranks.world_size)
    rehearsal = rehearse(job.config, [(job.spec(shape), shape.seq_len_tokens) for shape in shapes], device, ranks, wanted, alive)
    fits = min(rehearsal.micro_batch_tokens, settings.micro_batch)
    if rehearsal.micro_batch_tokens == wanted:
        fits = settings.micro_batch  # a larger one than a step fills, and none that did not fit
    seconds = seconds_per_token(rehearsal, settings.batch_tokens, ranks.world_size)
    found = _record(seconds, rehearsal.compile_s, rehearsal.peak_bytes, shapes, settings, fits)
    return Preflight(dataclasses.replace(settings, micro_batch_tokens=fits), found)


def rehearsed_shapes(config: Config) -> list[Shape]:
    """The first stage and the last, which is the longest and the largest; every one where code is compiled."""
    shapes = plan_of(config).shapes()
    chosen = shapes if config.training.compile else [shapes[0], shapes[-1]]
    return list(dict.fromkeys(chosen))


def largest_micro_batch(config: Config, world_size: int) -> int:
    """[tokens] of the largest micro-batch that a rank will see: its share of a step where that is less than the budget."""
    context = config.model.context_length
    sequences = -(-config.training.batch_tokens // context)
    return min(config.training.micro_batch, -(-sequences // world_size) * context)


def _record(
    seconds: tuple[float, ...], compile_s: float, peak_bytes: int | None, shapes: list[Shape], settings: Training, fits: int
) -> dict[str, Any]:
    stages = [
        {"seq_len_tokens": shape.seq_len_tokens, "n_layer": shape.n_layer, "d_model": shape.d_model, "seconds_per_token": s}
        for shape, s in zip(shapes, seconds, strict=True)
    ]
    return {
        "kind": "preflight",
        "micro_batch_tokens": fits,
        "micro_batch_tokens_asked": settings.micro_batch,
        "stages": stages,
        "compile_s": compile_s,
        "peak_bytes": peak_bytes,
    }
