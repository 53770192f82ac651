"""How stable training was: each step's loss over the smallest before it (the loss ratio of SLW, 2108.06084)."""

import numpy as np

from raystage.report.columns import Values

UNSTABLE_RATIO = 1.2


def loss_ratios(loss: Values) -> Values:
    """Shape (n,): each loss over the smallest finite one before it; nan for the first and for what is not finite."""
    best = np.concatenate([[np.nan], np.fmin.accumulate(loss)[:-1]]) if len(loss) else loss
    return loss / best
