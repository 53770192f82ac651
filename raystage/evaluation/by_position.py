"""Loss by position in the context: how much a model makes of what it has read."""

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

from raystage.evaluation.language_model import LanguageModel
from raystage.evaluation.scoring import OnTokens, Passage, ignore_tokens, score

_FIRST_EDGE = 8  # positions 0 to 7, 8 to 15, 16 to 31, ...


@dataclasses.dataclass(frozen=True, eq=False)
class LossByPosition:
    """`loss_sums`, float64 (L,): over `n_rows` rows, by the number of tokens that were read before the input, 0 to L - 1."""

    loss_sums: NDArray[np.float64]
    n_rows: int

    @property
    def loss(self) -> float:
        """[nats per token] over all positions."""
        return float(self.loss_sums.sum()) / (self.n_rows * len(self.loss_sums))

    @property
    def losses(self) -> list[float]:
        """[nats per token] at each position."""
        return [float(total) / self.n_rows for total in self.loss_sums]

    def ranges(self) -> list[tuple[int, int, float]]:
        """First position, the one behind the last, and the mean loss between: ranges that double."""
        borders = itertools.pairwise(position_edges(len(self.loss_sums)))
        return [(a, b, float(self.loss_sums[a:b].sum()) / (self.n_rows * (b - a))) for a, b in borders]


def loss_by_position(
    model: LanguageModel,
    rows: NDArray[np.int64],
    batch_tokens: int,
    eot_id: int | None = None,
    on_tokens: OnTokens = ignore_tokens,
) -> LossByPosition:
    """Over rows of L + 1 tokens, shape (n, L + 1), whose last L are scored. `eot_id`: where attention stops at document borders."""
    sums = np.zeros(rows.shape[1] - 1)
    passages = [Passage(row, rows.shape[1] - 1) for row in rows]
    for _, scores in score(model, passages, batch_tokens, on_tokens, eot_id):
        sums += scores.losses
    return LossByPosition(sums, len(rows))


def position_edges(seq_len_tokens: int) -> list[int]:
    """Borders of the ranges of positions: 0, 8, 16, 32, ... and the length."""
    edges = [0]
    while (edge := max(_FIRST_EDGE, 2 * edges[-1])) < seq_len_tokens:
        edges.append(edge)
    return [*edges, seq_len_tokens]
