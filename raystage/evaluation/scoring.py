"""The loss of single tokens given all before them, many passages at a time."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from raystage.data.batch import IGNORED, document_mask
from raystage.devices.at_once import sequences_at_once
from raystage.devices.ranks import Ranks
from raystage.evaluation.language_model import LanguageModel, evaluating

_LAZY_STEP = 64  # [tokens]
_WIDE_AT_ONCE = 1 << 26  # [logits] whose logarithms are held at a time

OnTokens = Callable[[int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Passage:
    """`tokens`, int64 (n,): the last `n_scored` of them are scored, each given all before it."""

    tokens: NDArray[np.int64]
    n_scored: int

    def __post_init__(self) -> None:
        assert 0 < self.n_scored < len(self.tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """`losses`, float64 (n_scored,): -log of each token's probability [nats]; `hits`, bool (n_scored,): whether it was the likeliest."""

    losses: NDArray[np.float64]
    hits: NDArray[np.bool_]


def ignore_tokens(n_tokens: int) -> None:
    """For whoever draws no progress."""


def score(
    model: LanguageModel, passages: Sequence[Passage], batch_tokens: int, on_tokens: OnTokens = ignore_tokens, eot_id: int | None = None
) -> Iterator[tuple[int, Scores]]:
    """Each passage's number and scores, the longest passages first, so that those of about one length share a forward pass.

    `batch_tokens`: of a forward pass, and so of its logits; `eot_id`: where attention stops at document borders; `on_tokens` hears of
    tokens scored. Dropout is off. Probabilities are over all entries of the model, those that only pad the vocabulary included, as
    transformers and lm_eval have it.
    """
    order = sorted(range(len(passages)), key=lambda i: -len(passages[i].tokens))
    begin = 0
    while begin < len(order):
        length = _length(model, len(passages[order[begin]].tokens) - 1)
        at_once = sequences_at_once(batch_tokens, length, len(order), model.device, Ranks())
        numbers = order[begin : begin + at_once]
        with evaluating(model.module):  # not around the yield: the caller's own work is not for it
            scored = _score_batch(model, [passages[i] for i in numbers], at_once, length, eot_id)
        yield from zip(numbers, scored, strict=True)
        on_tokens(sum(passages[i].n_scored for i in numbers))
        begin += at_once


def _length(model: LanguageModel, n_inputs: int) -> int:
    """[tokens] of a batch whose longest passage has `n_inputs`: of few lengths where each is a program to compile."""
    return min(-(-n_inputs // _LAZY_STEP) * _LAZY_STEP, model.context_tokens or n_inputs) if model.device.is_lazy else n_inputs


def _score_batch(model: LanguageModel, passages: list[Passage], at_once: int, length: int, eot_id: int | None) -> list[Scores]:
    """One forward pass. Passages stand at the left, and causal attention sees nothing of what fills them up on the right."""
    n_rows = at_once if model.device.is_lazy else len(passages)
    inputs = np.zeros((n_rows, length), dtype=np.int64)
    targets = np.full((n_rows, length), IGNORED, dtype=np.int64)
    for row, passage in enumerate(passages):
        n = len(passage.tokens) - 1
        inputs[row, :n] = passage.tokens[:-1]
        targets[row, n - passage.n_scored : n] = passage.tokens[-passage.n_scored :]
    first = 0 if model.device.is_lazy else min(len(passage.tokens) - 1 - passage.n_scored for passage in passages)
    inputs_BL = model.device.place(torch.from_numpy(inputs))
    targets_BS = model.device.place(torch.from_numpy(targets[:, first:].copy()))
    extra = document_mask(inputs_BL, eot_id) if eot_id is not None else ()
    losses_BS, hits_BS = _losses_and_hits(model.logits(inputs_BL, length - first, *extra), targets_BS)
    model.device.flush()  # both in one program
    losses, hits, wanted = losses_BS.cpu().double().numpy(), hits_BS.cpu().numpy(), targets[:, first:] != IGNORED
    return [Scores(losses[row, wanted[row]], hits[row, wanted[row]]) for row in range(len(passages))]


def _losses_and_hits(logits_BSV: Tensor, targets_BS: Tensor) -> tuple[Tensor, Tensor]:
    """In float32, some positions at a time: logarithms of all probabilities take as much memory as the logits."""
    logits_NV, targets_N = logits_BSV.flatten(0, 1), targets_BS.flatten()
    n_at_once = max(1, _WIDE_AT_ONCE // logits_NV.shape[1])
    losses, hits = [], []
    for part_NV, part_N in zip(logits_NV.split(n_at_once), targets_N.split(n_at_once), strict=True):
        losses.append(F.cross_entropy(part_NV.float(), part_N, ignore_index=IGNORED, reduction="none"))
        hits.append(part_NV.argmax(1) == part_N)
    return torch.cat(losses).view(targets_BS.shape), torch.cat(hits).view(targets_BS.shape)
