"""Several streams as one, in shares of their weights."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def mix(streams: Sequence[Iterator[T]], weights: Sequence[float], n_tokens: Callable[[T], int]) -> Iterator[tuple[int, T]]:
    """Items with the number of their stream, so that each stream's share of all tokens so far follows its weight.

    Next comes the stream that owes most: deficit = weight / sum(weights) * tokens of all - tokens of the stream (the
    first one where several owe as much). So no stream is ever ahead of its share by more than one of its items, nor behind
    by more than one item of each other stream. It ends when the stream whose turn it is has no more: what the others still
    hold is left out, as it could only bend the shares. Items of 0 tokens pass without moving a share.
    """
    shares = [weight / sum(weights) for weight in weights]
    used = [0] * len(streams)
    total = 0
    while True:
        # one stream's deficit is 0 but for rounding
        turn = max(range(len(streams)), key=lambda i: shares[i] * total - used[i]) if len(streams) > 1 else 0
        try:
            item = next(streams[turn])
        except StopIteration:
            return
        size = n_tokens(item)
        used[turn] += size
        total += size
        yield turn, item
