"""The global order of rows: a permutation an epoch, from the seed alone, whatever the workers."""

import functools

import numpy as np
from numpy.typing import NDArray


class RowOrder:
    """Row numbers of the corpus in training order; position p lies in epoch p // n_rows."""

    def __init__(self, n_rows: int, seed: int) -> None:
        assert n_rows > 0
        self.n_rows = n_rows
        self._seed = seed
        self._permutation = functools.lru_cache(maxsize=2)(self._make_permutation)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at these positions of the order, shape (n,)."""
        epochs = positions // self.n_rows
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._permutation(int(epoch))[positions[chosen] % self.n_rows]
        return rows

    def _make_permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(self.n_rows)
