"""The memory that each stage of a plan takes of a worker, and the micro-batch that it leaves room for."""

from collections.abc import Sequence

from raystage.config import Config, ConfigError
from raystage.devices.device import Device, pick_device
from raystage.runtime.plan_stages import PlannedStage
from raystage.training.errors import RehearsalError
from raystage.training.memory_fit import GIB, free_bytes, given_bytes, n_checkpointed, step_peak_bytes, with_choices
from raystage.training.policy import plan_of
from raystage.training.target_cost import target_spec
from raystage.training.worker_range import workers_of


def peaks_of(config: Config, stages: Sequence[PlannedStage]) -> list[int | None]:
    """[bytes] at the peak of a step of each stage, on each of as few workers as the stage may have; None where it is not predicted."""
    if config.runtime.device == "xla" or _is_open(config):
        return [None] * len(stages)
    return [_peak(config, stage, workers_of(config, position).low) for position, stage in enumerate(stages)]


def checkpointed_blocks(config: Config, stages: Sequence[PlannedStage]) -> list[int]:
    """How many blocks of each stage's model are checkpointed; none listed where none is, or where it is not known."""
    if config.training.activation_checkpointing == "none" or _is_open(config):
        return []
    return [n_checkpointed(config, stage.spec, workers_of(config, position).low) for position, stage in enumerate(stages)]


def planned_choices(config: Config) -> tuple[Config, str]:
    """The configuration with what a worker with runtime.memory_gib, or one like this machine, would choose; and how it came.

    As it is where neither is there. Raises ConfigError where a stage takes more than runtime.memory_gib.
    """
    if not config.training.is_fitted:
        return config, ""
    device, given = _device_at_hand(config), given_bytes(config)
    budget = given or (None if device is None else free_bytes(device))
    if budget is None:
        return config, "memory is that of the workers' devices; runtime.memory_gib tells plan how much that is"
    on_cpu = device is not None and device.torch_device.type == "cpu"
    shapes = plan_of(config).shapes()
    try:
        found = with_choices(config, target_spec(config), budget, workers_of(config, len(shapes) - 1).low, on_cpu)
    except RehearsalError as error:
        raise ConfigError(str(error) if given else f"{error}; runtime.memory_gib says how much the workers have") from None
    whose = "runtime.memory_gib" if given else "what this machine has free, less a tenth"
    return found, f"chosen for {budget / GIB:.3g} GiB a worker, {whose}"


def _is_open(config: Config) -> bool:
    """Whether the memory that decides is not known."""
    return config.training.is_fitted and config.runtime.memory_gib is None


def _device_at_hand(config: Config) -> Device | None:
    try:
        return pick_device(config.runtime.device)
    except ValueError:
        return None


def _peak(config: Config, stage: PlannedStage, n_workers: int) -> int:
    n_blocks = n_checkpointed(config, stage.spec, n_workers)
    return step_peak_bytes(config, stage.spec, stage.shape, config.training.micro_batch, n_workers, n_blocks)
