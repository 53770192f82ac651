"""Activation checkpointing (Chen et al. 1604.06174): a block keeps its input alone, and computes once more when its gradient is due."""

import functools
import itertools
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from raystage.models.family import blocks_of
from raystage.models.spec import ModelSpec


def checkpoint_blocks(model: nn.Module, spec: ModelSpec, n_blocks: int) -> None:
    """The first `n_blocks` from now on, in training; losses and gradients stay what they are, dropout included.

    The first, because their gradients are due last: by then what the others kept is gone.
    """
    blocks: Any = itertools.islice(blocks_of(model, spec), n_blocks)
    for block in blocks:
        # transformers' own switch, inside of the hooks that gather a sharded block
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=spec.dropout > 0)
