"""torch.compile by block: blocks of a width share one code, which a deeper model has already, and gradients leave between blocks."""

import torch
from torch import nn

from raystage.models.family import blocks_of
from raystage.models.spec import ModelSpec

_RECOMPILE_LIMIT = 128  # a plan's widths, for one sequence and for several, checkpointed or not; beyond it blocks silently run uncompiled


def compile_blocks(model: nn.Module, spec: ModelSpec) -> None:
    """The blocks of `model` are compiled when they first run, in one code for all lengths and batches, and another for a single sequence.

    What shards a block stays outside of its code; what computes it once more is in it, so that checkpointed blocks have a code of
    their own. `evaluating` runs none of it.
    """
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _RECOMPILE_LIMIT)
    settings.optimize_ddp = False  # within DDP it cuts blocks larger than a bucket, whose code would not be the rehearsal's
    torch.fx.experimental._config.use_duck_shape = False  # equal sizes at first, as of length and width, are no rule
    for block in blocks_of(model, spec):
        block.compile(dynamic=True)
