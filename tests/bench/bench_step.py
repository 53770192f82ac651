"""Tokens a second of raystage's step against the smallest loop around the same model that trains it alike."""

import dataclasses
import time

import torch
from torch import nn

from raystage.config.schema import Optimizer, Training
from raystage.data.batch import Batch
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.family import build_model
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from raystage.training.machinery import Machinery
from raystage.training.optimizer import make_optimizer
from raystage.training.step import train_step
from tests.bench.result import Result, paired

STEPS, ROWS, LENGTH = 4, 8, 256
SPEC = ModelSpec(
    family="gpt2",
    vocab_size=4096,
    context_length=LENGTH,
    n_layer=4,
    d_model=256,
    n_head=8,
    n_kv_head=8,
    head_dim=32,
    d_ff=1024,
    tied=True,
    rope_theta=None,
    dropout=0.0,
    eot_id=0,
)
OF_14M = dataclasses.replace(SPEC, vocab_size=8192, n_layer=6, n_head=6, n_kv_head=6, head_dim=64, d_model=384, d_ff=1536)


def run() -> Result:
    """GPT-2 of 4M parameters, float32, this machine's threads."""
    tokens = torch.randint(0, SPEC.vocab_size, (STEPS, ROWS, LENGTH + 1))
    batches = [Batch(t[:, :-1].contiguous(), t[:, 1:].contiguous()) for t in tokens]
    device, settings = pick_device("cpu"), Training(optimizer=Optimizer(lr=1e-3))
    trainee = Trainee(build_model(SPEC, 0), SPEC)
    machinery = Machinery(SPEC, trainee, trainee, make_optimizer(trainee.model, settings.optimizer), 0)
    bare_model = build_model(SPEC, 0)
    bare_optimizer = torch.optim.AdamW(bare_model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def ours() -> float:
        begin_s = time.perf_counter()
        for batch in batches:
            train_step(machinery, batch, ROWS * LENGTH, Ranks(), device, settings, None)
        return STEPS * ROWS * LENGTH / (time.perf_counter() - begin_s)

    def bare() -> float:
        begin_s = time.perf_counter()
        for batch in batches:
            logits = bare_model(batch.inputs_BL).logits
            nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets_BL.flatten()).backward()
            nn.utils.clip_grad_norm_(bare_model.parameters(), 1.0)
            bare_optimizer.step()
            bare_optimizer.zero_grad(set_to_none=True)
        return STEPS * ROWS * LENGTH / (time.perf_counter() - begin_s)

    ratios = paired(ours, bare, pairs=7)
    return Result("training step, tokens/s", "bare loop, same model", "x", tuple(ratios), ">= 0.98", f"{ours():,.0f} tokens/s")
