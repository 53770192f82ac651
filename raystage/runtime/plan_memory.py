"""The memory that each stage of a plan takes of a worker."""

from collections.abc import Sequence

from raystage.config import Config
from raystage.runtime.plan_stages import PlannedStage
from raystage.training.memory import peak_bytes
from raystage.training.step import n_sequences_of
from raystage.training.worker_range import workers_of


def peaks_of(config: Config, stages: Sequence[PlannedStage]) -> list[int | None]:
    """[bytes] at the peak of a step of each stage, on each of as few workers as the stage may have; None where it is not foretold."""
    if config.runtime.device == "xla":
        return [None] * len(stages)
    return [_peak(config, stage, workers_of(config, position).low) for position, stage in enumerate(stages)]


def _peak(config: Config, stage: PlannedStage, n_workers: int) -> int:
    length = stage.shape.seq_len_tokens
    n_mine = -(-n_sequences_of(stage.shape, config.training, config.model.context_length) // n_workers)
    at_once = min(n_mine, max(1, config.training.micro_batch_tokens // length))
    return peak_bytes(config, stage.spec, length, at_once * length, accumulates=n_mine > at_once, world_size=n_workers)
