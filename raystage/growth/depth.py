"""Depth by stacking: new blocks on top of the old ones, switched off, so that the function is unchanged."""

import torch

from raystage.growth.tensors import TrainingTensors
from raystage.models.axes import AxisTable


def grow_depth(state: TrainingTensors, axes: AxisTable, n_layer_before: int, n_layer_after: int) -> TrainingTensors:
    """`state` with blocks n_layer_before .. n_layer_after - 1 added: block i copies block i mod n_layer_before.

    Output projections of the new blocks are zero (identity), and their moments start empty with a step count
    of their own: a carried count with empty moments would take steps several times the learning rate.
    Sources: Gong et al. 2019 (stacking); LEMON 2310.07999 (zero projections). Raises ValueError for fewer layers.
    """
    if n_layer_after < n_layer_before or n_layer_before < 1:
        raise ValueError(f"depth {n_layer_before} -> {n_layer_after}: layers can only be added, to at least one")
    parameters = dict(state.parameters)
    for name, value in state.parameters.items():
        block, rest = axes.split(name)
        if block is None:
            continue
        for new in range(n_layer_before + block, n_layer_after, n_layer_before):
            output = axes.lookup(name).output_projection
            parameters[axes.block_prefix.format(new) + rest] = torch.zeros_like(value) if output else value.clone()
    return TrainingTensors(parameters, dict(state.moments))
