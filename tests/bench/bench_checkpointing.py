"""What activation checkpointing costs: the 14M model with every block computed again in the backward pass, against without.

The floor: a backward pass is two forward passes' work (Kaplan et al. 2001.08361), so that a third forward pass makes 4/3 of the step,
less where the head, which is not computed again, is a large part.
"""

import contextlib
import statistics
import tempfile
from pathlib import Path

from tests.bench.peer_size import small
from tests.bench.result import Result
from tests.bench.turns import RunInTurns

TURNS = 7


def run() -> Result:
    """At 256 tokens."""
    return at_length(256)


def at_length(length: int) -> Result:
    """One line."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs = [
            RunInTurns(Path(folder), how, small(length), ["runtime.engine=local", f"training.activation_checkpointing={how}"], stack)
            for how in ("full", "none")
        ]
        rates = [[each.turn() for each in runs] for _ in range(TURNS)]
    full, none = zip(*rates, strict=True)
    said = f"{statistics.median(full):,.0f} against {statistics.median(none):,.0f} tokens/s"
    ratios = tuple(a / b for a, b in zip(full, none, strict=True))
    return Result(f"tokens/s, checkpointing, {length} tokens", "without", "x", ratios, ">= 0.72", said)


if __name__ == "__main__":
    for n_tokens in (256, 1024):
        print(at_length(n_tokens).line(), flush=True)
