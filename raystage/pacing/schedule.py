"""Fixed rules: when a sequence length begins, as a share of the run's duration; exact at both ends."""

from collections.abc import Sequence


def rising_shares(values: Sequence[int], fraction: float, degree: float = 1.0) -> list[float]:
    """The share of the duration at which each of `values` but the first begins, when they rise over the first `fraction` of it.

    The length wanted at share s is first + (last - first) (s / fraction)^(1 / degree), and the stage has the largest of `values` that
    is no longer: so never below the first, and the last exactly at `fraction`, not before. `degree` 1: a line (Composer's
    SeqLengthWarmup, DeepSpeed's fixed_linear); 2: a root (fixed_root); above 1 lengths rise sooner at first.
    """
    first, span = values[0], values[-1] - values[0]
    # the last by itself: x ** degree * fraction would round
    return [fraction * ((value - first) / span) ** degree for value in values[1:-1]] + [fraction] * (span > 0)


def filled_lengths(first_tokens: int, last_tokens: int, step_tokens: int) -> list[int]:
    """Every multiple of `step_tokens` between two lengths, and both of these."""
    inner = range((first_tokens // step_tokens + 1) * step_tokens, last_tokens, step_tokens)
    return [first_tokens, *inner, last_tokens] if last_tokens > first_tokens else [first_tokens]


def last_calls(n_changes: int, end: float, least: float = 0.0) -> tuple[float, ...]:
    """The share of the duration at which a change by slope comes at the latest, with one, two, ... `n_changes` of them left.

    A tenth of the span up to `end`, where the rate begins to decay, is kept for each change, or `least` of it where one takes longer to
    come to rest; less where they are many. Late enough that the slope has its say, early enough that the target is reached and trains
    at the full rate.
    """
    spacing = min(max(0.1, least), 1 / (n_changes + 1))
    return tuple(end * (1 - n_left * spacing) for n_left in range(1, n_changes + 1))


def is_due(progress: float, share: float) -> bool:
    """Whether a change at `share` of the duration comes before the next step, when `progress` of it lies behind.

    The tolerance is of rounding: 3 of 10 steps are a share of 0.3.
    """
    return progress >= share - 1e-9
