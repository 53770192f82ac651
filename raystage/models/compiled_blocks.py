"""torch.compile by block: all blocks of a width share one code, a deeper model has it already, and gradients can leave between blocks."""

import torch
from torch import nn

from raystage.models.family import blocks_of
from raystage.models.spec import ModelSpec

_RECOMPILE_LIMIT = 128  # a plan's widths, each for one sequence and for several; beyond it a block would silently run uncompiled


def compile_blocks(model: nn.Module, spec: ModelSpec) -> None:
    """The blocks of `model` are compiled when they first run, in one code for all lengths and batch sizes of several sequences.

    What shards a block and what computes it once more stay outside of its code. `evaluating` runs them as they were.
    """
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _RECOMPILE_LIMIT)
    settings.optimize_ddp = False  # it cuts graphs where DDP's buckets end; a block has few parameters beside a bucket
    torch.fx.experimental._config.use_duck_shape = False  # equal sizes at first, as of length and width, are no rule
    for block in blocks_of(model, spec):
        block.compile(dynamic=True)
