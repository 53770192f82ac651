"""Memory of a step, counted without any: the step runs on tensors that have shapes and no numbers, and every one made is added up."""

import dataclasses
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raystage.config import Config
from raystage.data.batch import Batch
from raystage.devices import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.checkpointing import checkpoint_blocks
from raystage.models.family import ModelSpec, get_family
from raystage.models.trainee import Trainee
from raystage.training.machinery import Machinery, equip
from raystage.training.micro_batch import clip_and_update, forward_backward


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
    activations are computed once more. Of code that is not compiled;
    compiled code takes less. With the kernels of a CPU; not counted is what libraries and the allocator keep for themselves. Of fsdp, one
    worker that holds all.
    """
    has_buckets = world_size > 1 and config.training.strategy == "ddp"
    training = dataclasses.replace(config.training, compile=False, strategy="ddp")
    config = dataclasses.replace(config, training=training)
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        family, device = get_family(spec.family), pick_device("cpu")
        model = family.build(family.config(spec))
        live.begin(model.parameters())
        checkpoint_blocks(model, spec, n_checkpointed)
        machinery = equip(Trainee(model, spec), None, config, device, Ranks())
        _give_gradients(model)
        _update(machinery, config)  # makes the optimizer's moments
        if accumulates:
            _give_gradients(model)
        if has_buckets:
            _give_buckets(model)
        _forward_backward(machinery, config, seq_len_tokens, max(1, micro_batch_tokens // seq_len_tokens))
        _update(machinery, config)
    return live.peak_bytes


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


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operations return, from then until nobody holds them."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._bytes = self.peak_bytes = self._generation = 0

    def begin(self, tensors: Any) -> None:
        """Counts these and nothing that came before them."""
        self._seen, self._bytes, self.peak_bytes = weakref.WeakSet(), 0, 0
        self._generation += 1
        for tensor in tensors:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # an optimizer asks for a number that is not there
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            n_bytes = storage.nbytes()
            self._bytes += n_bytes
            self.peak_bytes = max(self.peak_bytes, self._bytes)
            weakref.finalize(storage, self._drop, n_bytes, self._generation)

    def _drop(self, n_bytes: int, generation: int) -> None:
        self._bytes -= n_bytes if generation == self._generation else 0
