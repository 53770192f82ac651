"""A step's tensors for one rank, read from the rows that it was cut from."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raystage.data.order import RowOrder
from raystage.data.rows import Rows
from raystage.data.step_cut import Cut

IGNORED = -100  # target of a padded position, as torch's cross_entropy has it


@dataclasses.dataclass(frozen=True)
class Batch:
    """Token numbers of some sequences: inputs and targets, shape (B, L) each; padded targets are IGNORED."""

    inputs_BL: Tensor
    targets_BL: Tensor

    def split(self, n_sequences: int, at_least: int = 0, alike: bool = False) -> list["Batch"]:
        """Micro-batches of up to `n_sequences` sequences, or of exactly so many where they are to be `alike`; `at_least` so many, the
        missing ones of one sequence. What fills up has zero weight."""
        pairs = zip(self.inputs_BL.split(n_sequences), self.targets_BL.split(n_sequences), strict=True)
        parts = [Batch(inputs, targets) for inputs, targets in pairs if len(inputs)]
        parts += [self._empty(1)] * (at_least - len(parts))
        return [part._filled(n_sequences) for part in parts] if alike else parts

    def _filled(self, n_sequences: int) -> "Batch":
        more = self._empty(n_sequences - len(self.inputs_BL))
        return Batch(torch.cat([self.inputs_BL, more.inputs_BL]), torch.cat([self.targets_BL, more.targets_BL]))

    def _empty(self, n_sequences: int) -> "Batch":
        shape = (n_sequences, self.inputs_BL.shape[1])
        return Batch(self.inputs_BL.new_zeros(shape), self.targets_BL.new_full(shape, IGNORED))

    def on(self, place: Callable[[Tensor], Tensor]) -> "Batch":
        """The same on a device, where `place` puts each tensor."""
        return Batch(place(self.inputs_BL), place(self.targets_BL))


def read_batch(rows: Rows, order: RowOrder, cut_: Cut, chosen: slice, seq_len_tokens: int) -> Batch:
    """The tensors of the `chosen` sequences of a cut. No sequence at all gives one of zero weight,
    so that every rank takes part in the gradient's reduction."""
    position, offset, n_targets = cut_.position[chosen], cut_.offset[chosen], cut_.n_targets[chosen]
    if len(position) == 0:
        position, offset, n_targets = cut_.position[:1], cut_.offset[:1], np.zeros(1, dtype=np.int64)
    tokens = rows.pieces(order.rows(position), offset, seq_len_tokens)
    targets = np.where(np.arange(seq_len_tokens) < n_targets[:, None], tokens[:, 1:], IGNORED)
    return Batch(torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])), torch.from_numpy(targets))


def spread_rows(rows: Rows, n_rows: int) -> NDArray[np.int64]:
    """`n_rows` row numbers spread evenly over all of them, fewer where there are fewer; the same for ever."""
    n_rows = min(n_rows, len(rows))
    return np.arange(n_rows, dtype=np.int64) * len(rows) // n_rows


def whole_rows(rows: Rows, numbers: NDArray[np.int64]) -> Batch:
    """These rows at the full context length."""
    tokens = torch.from_numpy(rows[numbers])
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def document_mask(inputs_BL: Tensor, eot_id: int) -> tuple[Tensor, Tensor]:
    """Attention that stops at document borders: mask (B, 1, L, L), true where a query may look, and
    positions (B, L) counted from each document's start. An end-of-text token closes its document."""
    is_end = (inputs_BL == eot_id).long()
    document = is_end.cumsum(1) - is_end
    same = document[:, :, None] == document[:, None, :]
    length = inputs_BL.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=inputs_BL.device).tril()
    place = torch.arange(length, device=inputs_BL.device).expand_as(inputs_BL)
    starts = torch.nn.functional.pad(is_end[:, :-1], (1, 0)) * place
    return (same & causal)[:, None], place - starts.cummax(1).values
