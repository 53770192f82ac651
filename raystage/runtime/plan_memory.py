"""The memory that each stage of a plan takes of a worker, and the micro-batch that it leaves room for."""

from collections.abc import Sequence

from raystage.config import Config, ConfigError
from raystage.devices import Device, pick_device
from raystage.runtime.plan_stages import PlannedStage, planned_vocab_size
from raystage.training.memory_fit import GIB, free_bytes, given_bytes, step_peak_bytes, with_micro_batch
from raystage.training.out_of_memory import RehearsalError
from raystage.training.policy import plan_of
from raystage.training.stage_model import spec_of
from raystage.training.worker_range import workers_of


def peaks_of(config: Config, stages: Sequence[PlannedStage]) -> list[int | None]:
    """[bytes] at the peak of a step of each stage, on each of as few workers as the stage may have; None where it is not foretold."""
    if config.runtime.device == "xla" or config.training.micro_batch_tokens is None:
        return [None] * len(stages)
    return [_peak(config, stage, workers_of(config, position).low) for position, stage in enumerate(stages)]


def planned_micro_batch(config: Config) -> tuple[Config, str]:
    """The configuration with the micro-batch that a worker with runtime.memory_gib, or like this machine, would choose; and how it came.

    Without one where neither is there. Raises ConfigError where one sequence takes more than runtime.memory_gib.
    """
    if config.training.micro_batch_tokens is not None:
        return config, ""
    device, given = _device_at_hand(config), given_bytes(config)
    budget = given or (None if device is None else free_bytes(device))
    if budget is None:
        return config, "the micro-batch is chosen by the memory of the workers' devices; runtime.memory_gib tells plan how much that is"
    on_cpu = device is not None and device.torch_device.type == "cpu"
    shapes = plan_of(config).shapes()
    spec = spec_of(config, shapes[-1], planned_vocab_size(config), eot_id=0)
    try:
        found = with_micro_batch(config, spec, budget, workers_of(config, len(shapes) - 1).low, on_cpu)
    except RehearsalError as error:
        raise ConfigError(str(error)) from None
    whose = "runtime.memory_gib" if given else "what this machine has free, less a tenth"
    return found, f"micro-batches of {found.training.micro_batch:,} tokens are chosen for {budget / GIB:.3g} GiB, {whose}"


def _device_at_hand(config: Config) -> Device | None:
    try:
        return pick_device(config.runtime.device)
    except ValueError:
        return None


def _peak(config: Config, stage: PlannedStage, n_workers: int) -> int:
    return step_peak_bytes(config, stage.spec, stage.shape, config.training.micro_batch, n_workers)
