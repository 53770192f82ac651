"""The fixed probe as a signal for the slope: the same held-out tokens at every check, losses by position."""

import dataclasses
import itertools

import torch
from torch import Tensor

from raystage.config.schema import Config
from raystage.data.batch import Batch, document_mask, spread_rows, whole_rows
from raystage.data.rows import Rows
from raystage.data.step_cut import most_micro_batches, rank_slice
from raystage.devices.at_once import sequences_at_once
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.evaluation.by_position import position_edges
from raystage.evaluation.language_model import evaluating
from raystage.models.trainee import Trainee


@dataclasses.dataclass(frozen=True)
class ProbeSums:
    """`loss_sums`, shape (n_ranges,), of this rank; `n_targets` of all ranks, by range of positions."""

    loss_sums: Tensor
    n_targets: tuple[int, ...]

    def mean(self, sums: list[float]) -> float:
        """Loss per token, from the sums over all ranks."""
        return sum(sums) / sum(self.n_targets)

    def means(self, sums: list[float]) -> list[float]:
        """The same by range of positions."""
        return [total / n for total, n in zip(sums, self.n_targets, strict=True)]


class SignalProbe:
    """Held-out rows spread over all of them, cut to the stage's length: paired from check to check, so the data's noise cancels."""

    def __init__(self, config: Config, rows: Rows, device: Device, ranks: Ranks, eot_id: int | None) -> None:
        self._rows, self._device, self._ranks, self._eot_id = rows, device, ranks, eot_id
        self._tokens = config.pacing.probe_tokens or config.training.batch_tokens // 2
        self._precision = config.training.precision
        self._batch: Batch | None = None

    def n_rows(self, seq_len_tokens: int) -> int:
        """Rows of all ranks at this length."""
        return max(1, min(len(self._rows), self._tokens // seq_len_tokens))

    def measure(self, trainee: Trainee, seq_len_tokens: int, micro_batch_tokens: int) -> ProbeSums:
        """Runs the probe without reading anything back from the device."""
        n_rows, edges = self.n_rows(seq_len_tokens), position_edges(seq_len_tokens)
        sums_L = torch.zeros(seq_len_tokens, dtype=torch.float64, device=self._device.torch_device)
        _, n_shares = self._device.shares(self._ranks)
        micro_batch = sequences_at_once(micro_batch_tokens, seq_len_tokens, n_rows, self._device, self._ranks)
        n_passes = most_micro_batches(n_rows, n_shares, micro_batch)
        with evaluating(trainee):
            for part in self._mine(n_rows, seq_len_tokens).split(micro_batch, n_passes, alike=self._device.is_lazy):
                part = part.on(self._device.place)
                extra = document_mask(part.inputs_BL, self._eot_id) if self._eot_id is not None else ()
                with self._device.autocast(self._precision):
                    losses_BL = trainee.losses(part.inputs_BL, part.targets_BL, *extra)
                sums_L += losses_BL.double().sum(0)
                self._device.flush()
        bounds = list(itertools.pairwise(edges))
        return ProbeSums(torch.stack([sums_L[a:b].sum() for a, b in bounds]), tuple(n_rows * (b - a) for a, b in bounds))

    def _mine(self, n_rows: int, seq_len_tokens: int) -> Batch:
        """This rank's rows; kept until the length changes."""
        if self._batch is None or self._batch.inputs_BL.shape[1] != seq_len_tokens:
            numbers = spread_rows(self._rows, n_rows)[rank_slice(n_rows, *self._device.shares(self._ranks))]
            whole = whole_rows(self._rows, numbers)
            self._batch = Batch(whole.inputs_BL[:, :seq_len_tokens], whole.targets_BL[:, :seq_len_tokens])
        return self._batch
