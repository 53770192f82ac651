"""What a run came to, in a handful of numbers."""

import dataclasses
import math
from collections.abc import Sequence

from raystage.report.run import Run
from raystage.report.stages import Stage, total


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of a whole run; None where the records do not say."""

    val_loss: float | None
    perplexity: float | None
    tokens: float
    flops: float
    time_s: float
    static_flops: float
    share_of_static: float
    restarts: int
    world_sizes: list[int]
    device: str


def facts_of(run: Run, stages: Sequence[Stage]) -> Facts:
    """`static_flops`: FLOPs per token measured over the last stage, times all tokens of the run."""
    spent, last = total(stages), stages[-1].spent
    static_flops = last.flops / last.tokens * spent.tokens
    val_loss = run.records.val[-1]["val_loss"] if run.records.val else None
    starts = run.records.starts
    return Facts(
        val_loss=val_loss,
        perplexity=math.exp(val_loss) if val_loss is not None and val_loss < math.log(1e9) else None,
        tokens=spent.tokens,
        flops=spent.flops,
        time_s=spent.time_s,
        static_flops=static_flops,
        share_of_static=spent.flops / static_flops,
        restarts=max(0, len(starts) - 1),
        world_sizes=sorted({record["world_size"] for record in run.records.train}),
        device=starts[-1]["device"] if starts else "",
    )
