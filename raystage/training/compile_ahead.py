"""Every program of a run compiled before step 1, where the device compiles one a shape, so that no change of stage waits for it."""

import dataclasses
import functools
import gc
import time
from collections.abc import Callable, Sequence

import torch

from raystage.config.schema import Training
from raystage.data.batch import Batch
from raystage.data.step_cut import rank_slice
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.evaluation.loss import rows_at_once, summed_loss
from raystage.pacing.stage import Shape
from raystage.training.errors import RehearsalError
from raystage.training.job import Job
from raystage.training.machinery import Machinery
from raystage.training.optimizer import largest_second_moment
from raystage.training.out_of_memory import too_large, within_memory
from raystage.training.signal_probe import SignalProbe
from raystage.training.state import assemble
from raystage.training.step import n_sequences_of, train_step


@dataclasses.dataclass(frozen=True)
class Ahead:
    """`micro_batch_tokens`: what fits; `seconds_per_token`: of a whole step of each shape, compiled code being ready."""

    micro_batch_tokens: int
    seconds_per_token: tuple[float, ...]
    compile_s: float


def compile_ahead(job: Job, shapes: Sequence[Shape], device: Device, ranks: Ranks, alive: Callable[[], object]) -> Ahead:
    """Trains two steps of every shape on tokens of no meaning, validates once, and forgets it all but the programs.

    `alive` is called between programs, which may take minutes each. The micro-batch is halved until everything fits, on all ranks alike
    where they run one program. Raises RehearsalError when one sequence on each device is too much, and, since its peers are waiting for
    this rank, as soon as memory runs out where each has a program of its own.
    """
    settings, shares, before = job.config.training, device.shares(ranks)[1], device.programs()
    while True:
        with device.random_state_kept():
            seconds = within_memory(functools.partial(_run_all, job, shapes, device, ranks, settings, alive))
        gc.collect()
        if seconds is not None:
            return Ahead(settings.micro_batch, seconds, device.programs().since(before).seconds)
        if shares > 1:
            raise RehearsalError(
                f"out of memory on {device.name} with training.micro_batch_tokens={settings.micro_batch}; lower it: workers "
                "that run programs of their own do not halve it by themselves"
            )
        if settings.micro_batch * device.n_hosts < 2 * job.config.model.context_length * device.n_devices:
            largest = max(shapes, key=lambda shape: (shape.n_layer * shape.d_model**2, shape.seq_len_tokens))
            raise too_large(job.spec(largest), largest.seq_len_tokens, device.name)
        settings = dataclasses.replace(settings, micro_batch_tokens=settings.micro_batch // 2)


def _run_all(
    job: Job, shapes: Sequence[Shape], device: Device, ranks: Ranks, settings: Training, alive: Callable[[], object]
) -> tuple[float, ...]:
    """Seconds of a token of each shape. Sizes in the order of the plan from its end: memory runs out at once if it does."""
    seconds: dict[Shape, float] = {}
    machinery: Machinery | None = None
    for shape in reversed(shapes):
        spec = job.spec(shape)
        if machinery is None or machinery.spec != spec:
            machinery = None  # its memory goes before another's is taken
            machinery = assemble(spec, job.config, device, ranks)
            _evaluate(machinery, job, device, ranks, settings)
        _, seconds[shape] = (_step(machinery, shape, job, device, ranks, settings) for _ in range(2))
        _look(machinery, shape, job, device, ranks, settings)
        alive()
    return tuple(seconds[shape] for shape in shapes)


def _step(machinery: Machinery, shape: Shape, job: Job, device: Device, ranks: Ranks, settings: Training) -> float:
    n = n_sequences_of(shape, settings, job.config.model.context_length)
    mine = range(n)[rank_slice(n, *device.shares(ranks))]
    batch = _zeros(len(mine) or 1, shape.seq_len_tokens)
    n_tokens = n * shape.seq_len_tokens
    device.synchronize()
    begin_s = time.perf_counter()
    train_step(machinery, batch, n_tokens, ranks, device, settings, job.attention_eot_id, n)
    device.synchronize()
    return (time.perf_counter() - begin_s) / n_tokens


def _evaluate(machinery: Machinery, job: Job, device: Device, ranks: Ranks, settings: Training) -> None:
    """As validation and the gate of growth do."""
    at_once = rows_at_once(job.config, settings, device, ranks)
    rows = _zeros(at_once, job.config.model.context_length)
    summed_loss(machinery.trainee, rows, device, at_once, job.attention_eot_id)


def _look(machinery: Machinery, shape: Shape, job: Job, device: Device, ranks: Ranks, settings: Training) -> None:
    """What a boundary asks of the device."""
    config, probed = job.config, []
    if config.pacing.signal == "probe":
        probe = SignalProbe(config, job.corpus.validation_rows(config.model.context_length), device, ranks, job.attention_eot_id)
        probed = [probe.measure(machinery.trainee, shape.seq_len_tokens, settings.micro_batch).loss_sums]
    moment = largest_second_moment(machinery.optimizer)
    device.read(probed, [moment] if moment is not None else [], ranks).result()


def _zeros(n: int, seq_len_tokens: int) -> Batch:
    tokens = torch.zeros((n, seq_len_tokens), dtype=torch.int64)
    return Batch(tokens, tokens.clone())
