"""Memory of a step, counted without any: the step runs on tensors that have shapes and no numbers, and every one made is added up."""

import contextlib
import dataclasses

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from raystage.config import Config
from raystage.data.batch import Batch
from raystage.devices.device import pick_device
from raystage.devices.fake_ranks import fake_ranks
from raystage.devices.ranks import Ranks
from raystage.models.checkpointing import checkpoint_blocks
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from raystage.training.live_bytes import LiveBytes
from raystage.training.machinery import Machinery, equip
from raystage.training.micro_batch import clip_and_update, forward_backward
from raystage.training.sharding import Sharding, shard, sharding_of, shards
from raystage.training.step import sync_on


def peak_bytes(
    config: Config,
    spec: ModelSpec,
    seq_len_tokens: int,
    micro_batch_tokens: int,
    accumulates: bool,
    world_size: int,
    n_checkpointed: int = 0,
) -> int:
    """The most that one of `world_size` workers holds at once in a step of this stage: weights, optimizer, gradients, activations.

    `accumulates`: whether a step has several micro-batches, so that gradients lie beside activations; `n_checkpointed`: blocks whose
    activations are computed once more; of fsdp the configuration says which. Of code that is not compiled; compiled code takes less. With
    the kernels of a CPU; not counted is what libraries and the allocator keep for themselves. Of fsdp the first worker, whose shards are
    the largest, in a process of no group.
    """
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, compile=False))
    with contextlib.ExitStack() as stack:
        is_sharded = shards(config, Ranks(0, world_size))
        ranks = stack.enter_context(fake_ranks(world_size)) if is_sharded else Ranks()
        how = sharding_of(config, pick_device("cpu"), ranks) if is_sharded else None  # before the next line: its mesh has numbers
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        live = stack.enter_context(LiveBytes())
        machinery = _machinery(config, spec, how, ranks, n_checkpointed, live)
        _give_gradients(machinery.model)
        _update(machinery, config)  # makes the optimizer's moments
        n_sequences = max(1, micro_batch_tokens // seq_len_tokens)
        if how is None:
            _prepare_gradients(machinery.model, accumulates, has_buckets=world_size > 1)
            _forward_backward(machinery, config, seq_len_tokens, n_sequences)
        else:
            for is_last in [False, True] if accumulates else [True]:
                with sync_on(machinery, is_last, config.training):
                    _forward_backward(machinery, config, seq_len_tokens, n_sequences)
        _update(machinery, config)
    return live.peak_bytes


def _machinery(config: Config, spec: ModelSpec, how: Sharding | None, ranks: Ranks, n_checkpointed: int, live: LiveBytes) -> Machinery:
    family = get_family(spec.family)
    trainee = Trainee(family.build(family.config(spec)), spec)
    if how is None:
        checkpoint_blocks(trainee.model, spec, n_checkpointed)
    else:
        shard(trainee, how)
    live.begin(trainee.parameters())
    return equip(trainee, None, config, pick_device("cpu"), ranks)


def _prepare_gradients(model: nn.Module, accumulates: bool, has_buckets: bool) -> None:
    """What lies there when the last micro-batch begins."""
    if accumulates:
        _give_gradients(model)
    if has_buckets:
        _give_buckets(model)


def _give_gradients(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = torch.empty_like(p)


def _give_buckets(model: nn.Module) -> None:
    """As DDP does: there is memory to send gradients from, and each goes there, out of its own, when it is complete."""
    buckets = {p: torch.empty_like(p) for p in model.parameters()}

    def send(p: nn.Parameter) -> None:
        p.grad = buckets[p]

    for p in buckets:
        p.register_post_accumulate_grad_hook(send)


def _update(machinery: Machinery, config: Config) -> None:
    clip_and_update(machinery, config.training.optimizer)
    machinery.optimizer.zero_grad(set_to_none=True)


def _forward_backward(machinery: Machinery, config: Config, seq_len_tokens: int, n_sequences: int) -> None:
    tokens = torch.zeros(n_sequences, seq_len_tokens, dtype=torch.int64)
    eot_id = None if config.data.attend_across_documents else machinery.spec.eot_id
    forward_backward(machinery, Batch(tokens, tokens.clone()), 1.0, pick_device("cpu"), config.training, eot_id)
