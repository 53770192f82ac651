"""A fresh block: initial values as the model's own class draws them, switched off."""

import copy
import dataclasses

import torch
from torch import Tensor
from transformers import PretrainedConfig

from raystage.growth.symmetry import seed_of
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec


def fresh_block(config: PretrainedConfig, spec: ModelSpec, number: int, seed: int) -> dict[str, Tensor]:
    """Block `number` of a model of this configuration by the rest of each name, in float32, its output projections zero.

    The class draws it itself, in a model of one layer and next to no vocabulary.
    """
    family = get_family(spec.family)
    small = copy.deepcopy(config)
    small.vocab_size, small.bos_token_id, small.eos_token_id, small.pad_token_id = 8, None, None, None
    single = family.resize(small, dataclasses.replace(spec, n_layer=1, context_length=8), [None])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, f"block {number}"))  # a device's own would not be put back
        model = family.build(single)
    axes = family.axes(spec)
    block = {}
    for name, p in model.named_parameters():
        number_in_model, rest = axes.split(name)
        if number_in_model is not None:
            block[rest] = torch.zeros_like(p.detach()) if axes.lookup(name).output_projection else p.detach()
    return block
