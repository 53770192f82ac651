"""Growth of a whole training state by one change of its shape."""

import dataclasses

import torch

from raystage.growth.depth import grow_depth
from raystage.growth.tensors import TrainingTensors
from raystage.growth.width import grow_width
from raystage.models.family import ModelSpec, get_family


def grow(state: TrainingTensors, before: ModelSpec, after: ModelSpec, *, noise_scale: float = 0.0, seed: int = 0) -> TrainingTensors:
    """The training state of a model of shape `after` that computes the same function as `state` does at `before`.

    `noise_scale`: standard deviation, relative to the weights, of the noise that breaks the symmetry of copied
    channels without moving the function. Raises ValueError when anything but depth and width differs, or the
    width is no whole multiple.
    """
    if dataclasses.replace(after, n_layer=before.n_layer, d_model=before.d_model) != before:
        raise ValueError("growth changes depth and width alone")
    if after.d_model % before.d_model:
        raise ValueError(f"width {before.d_model} -> {after.d_model}: must be a whole multiple")
    axes = get_family(before.family).axes
    generator = torch.Generator().manual_seed(seed)
    if after.n_layer != before.n_layer:
        state = grow_depth(state, axes, before.n_layer, after.n_layer)
    if after.d_model != before.d_model:
        state = grow_width(state, axes, after.d_model // before.d_model, noise_scale, generator)
    return state
