"""What the state of an optimizer means, so that growth can carry it: by what power of the gradient it moves."""

from typing import Literal

from raystage.growth.errors import GrowthError

# linear: a mean of gradients; square: of their squares; row_square, column_square: the squares' mean over the
# last and over the last but one dimension (Adafactor, Shazeer & Stern 1804.04235); count: a number of steps
Meaning = Literal["linear", "square", "row_square", "column_square", "count"]

_ADAM: dict[str, Meaning] = {"step": "count", "exp_avg": "linear", "exp_avg_sq": "square", "max_exp_avg_sq": "square"}

_KNOWN: dict[str, dict[str, Meaning]] = {
    "AdamW": _ADAM,
    "Adam": _ADAM,
    "SGD": {"momentum_buffer": "linear"},
    "Muon": {"momentum_buffer": "linear"},
    "Adafactor": {"step": "count", "row_var": "row_square", "col_var": "column_square", "variance": "square"},
}


def meanings(optimizer: str) -> dict[str, Meaning]:
    """The meaning of each tensor in the state of torch's optimizer of that class name. Raises GrowthError."""
    if optimizer not in _KNOWN:
        raise GrowthError(
            f"optimizer {optimizer}: what its state means is unknown, so growth cannot carry it; "
            f"known are {', '.join(_KNOWN)}; or start its state anew (reset)"
        )
    return _KNOWN[optimizer]
