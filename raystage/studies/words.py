"""Words and numbers that tables and sentences of a study have in common."""

from raystage.studies.spread import Spread

COLUMN_WORDS = {
    "perplexity": "validation perplexity",
    "worst_loss_ratio": "worst loss ratio",
    "n_unstable": "steps with a loss ratio above 1.2",
    "largest_grad_norm": "largest gradient norm",
    "largest_second_moment": "largest second moment",
}


def plus_minus(spread: Spread, form: str) -> str:
    """Mean and standard deviation over seeds."""
    deviation = "" if spread.deviation is None else f" ± {spread.deviation:{form.replace('+', '')}}"
    return f"{spread.mean:{form}}{deviation}"
