"""A guess of the loss slope before there is a loss: Chinchilla's law."""

# L = E + A / N^alpha + B / D^beta, as refitted by Besiroglu et al. (2404.10102, table 1)
_E, _A, _ALPHA, _B, _BETA = 1.8172, 482.01, 0.3478, 2085.43, 0.3658


def tokens_at_slope(n_parameters: float, slope: float) -> float:
    """The tokens after which the loss of a model of `n_parameters` has this d log(loss) / d log(compute), below 0.

    Raises ValueError for a slope that no model of the law has: it is never steeper than -beta.
    """
    share = -slope / _BETA  # of the loss that more tokens take away
    if not 0 < share < 1:
        raise ValueError(f"slope {slope}: must be between {-_BETA} and 0")
    return float((_B * (1 - share) / (share * (_E + _A / n_parameters**_ALPHA))) ** (1 / _BETA))
