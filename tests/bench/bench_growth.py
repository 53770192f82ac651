"""Seconds of growth against seconds of one plain copy of the grown training state."""

import dataclasses
import time

import torch

from raystage.growth import Moments, TrainingTensors, grow
from raystage.models.family import ModelSpec, build_model
from tests.bench.result import Result, paired

SPEC = ModelSpec("gpt2", vocab_size=8192, context_length=256, n_layer=6, d_model=256, head_dim=64, dropout=0.0, eot_id=0)


def run() -> Result:
    """Twice the depth and twice the width, AdamW's moments with them, symmetry broken."""
    after = dataclasses.replace(SPEC, n_layer=2 * SPEC.n_layer, d_model=2 * SPEC.d_model)
    parameters = {name: p.detach() for name, p in build_model(SPEC, 0).named_parameters()}
    moments = {name: Moments(p.clone(), p.square(), torch.tensor(1.0)) for name, p in parameters.items()}
    state = TrainingTensors(parameters, moments)
    grown = grow(state, SPEC, after, noise_scale=0.5)
    bytes_ = sum(p.numel() * p.element_size() for p in grown.parameters.values()) * 3

    def growing() -> float:
        begin_s = time.perf_counter()
        grow(state, SPEC, after, noise_scale=0.5)
        return time.perf_counter() - begin_s

    def copying() -> float:
        begin_s = time.perf_counter()
        _ = [p.clone() for p in grown.parameters.values()]
        _ = [t.clone() for m in grown.moments.values() for t in (m.exp_avg, m.exp_avg_sq)]
        return time.perf_counter() - begin_s

    ratios = paired(growing, copying, pairs=7)
    return Result("growth x2 deep, x2 wide", "one copy of the grown state", "x", tuple(ratios), "<= 2", f"{bytes_ / 1e6:.0f} MB")
