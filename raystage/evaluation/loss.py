"""Mean loss on held-out rows at the full context length, over all ranks."""

from torch import nn

from raystage.config.schema import Config, Training
from raystage.data.batch import Batch, document_mask, spread_rows, whole_rows
from raystage.data.rows import Rows
from raystage.data.step_cut import most_micro_batches, rank_slice
from raystage.devices.at_once import sequences_at_once
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.evaluation.language_model import evaluating


def rows_at_once(config: Config, settings: Training, device: Device, ranks: Ranks) -> int:
    """Rows of one forward pass at the full context. The same for validation and for the gate of growth, which share a program."""
    return sequences_at_once(settings.micro_batch, config.model.context_length, config.validation.rows, device, ranks)


def summed_loss(
    trainee: nn.Module, batch: Batch, device: Device, micro_batch: int, eot_id: int | None = None, n_passes: int = 0
) -> tuple[float, int]:
    """Sum of the loss over `batch` in float32 without dropout, and its number of targets.

    `eot_id`: where attention stops at document borders, as in training; None: it does not. `n_passes`: of the rank that has the
    most, which all of them do.
    """
    total, tokens = 0.0, 0
    with evaluating(trainee):
        for part in batch.split(micro_batch, n_passes, alike=device.is_lazy):
            part = part.on(device.place)
            extra = document_mask(part.inputs_BL, eot_id) if eot_id is not None else ()
            with device.full_float32():  # the gate of growth allows no more, and shares its programs with validation
                total += float(trainee(part.inputs_BL, part.targets_BL, *extra).double())
            tokens += int((part.targets_BL >= 0).sum())
    return total, tokens


def validation_loss(
    trainee: nn.Module, rows: Rows, n_rows: int, device: Device, ranks: Ranks, micro_batch: int, eot_id: int | None
) -> float:
    """Mean loss per token on `n_rows` rows spread over the held-out ones, each rank computing its share."""
    numbers = spread_rows(rows, n_rows)
    share, n_shares = device.shares(ranks)
    mine = numbers[rank_slice(len(numbers), share, n_shares)]
    n_passes = most_micro_batches(len(numbers), n_shares, micro_batch)
    total, tokens = summed_loss(trainee, whole_rows(rows, mine), device, micro_batch, eot_id, n_passes)
    total, n_targets = ranks.sums([total, float(tokens)])
    return total / n_targets
