"""The corpus as rows of one context: a view of the token stream, nothing is copied until rows are asked for."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raystage.config import ConfigError


@dataclass(frozen=True, eq=False)
class Rows:
    """Row i is `tokens[i * L : i * L + L + 1]` with L = context_length: neighbours share one token, each token is a target once.

    Raises ConfigError where the tokens do not fill one row.
    """

    tokens: np.ndarray
    context_length: int
    _rows_nl: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        needed = self.context_length + 1
        if len(self.tokens) < needed:
            raise ConfigError(
                f"model.context_length={self.context_length}: needs {needed} tokens for one row, the corpus part has {len(self.tokens)}; "
                "give more text, a larger data.validation_fraction (validation) or a shorter context"
            )
        view = np.lib.stride_tricks.sliding_window_view(self.tokens, needed)[:: self.context_length]
        object.__setattr__(self, "_rows_nl", view)

    def __len__(self) -> int:
        """Whole rows; the tokens after the last one are left out."""
        return len(self._rows_nl)

    def __getitem__(self, indices: ArrayLike | slice) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 (n, context_length + 1) of the rows `indices`. Raises IndexError for one that does not exist."""
        chosen = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        return self._rows_nl[chosen].astype(np.int64)

    def pieces(self, numbers: NDArray[np.int64], offsets: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """int64 (n, length + 1): from the token at `offsets` of each row on; past a row's end its last token again."""
        columns = np.minimum(offsets[:, None] + np.arange(length + 1), self.context_length)
        return np.asarray(self.tokens).take(numbers[:, None] * self.context_length + columns).astype(np.int64)
