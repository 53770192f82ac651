"""Counting: sizes of axes, parameters that multiply, FLOPs of a token, and the share of a device's peak that is used."""

import functools
import math
import re
from collections.abc import Iterable

from torch import nn

from raystage.models.axes import READING, Axis, Parameter
from raystage.models.family import get_family
from raystage.models.spec import ModelSpec

# dense bf16 without sparsity, T4's fp16, FLOP/s per device (NVIDIA data sheets), by words of its name; those with more of them first
_PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200 NVL": 835e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "T4": 65e12,
}


def axis_size(axis: Axis, spec: ModelSpec) -> int:
    """Channels along the axis, all its sections."""
    sizes = {
        "embed": spec.d_model,
        "heads": spec.n_head * spec.head_dim,
        "kv_heads": spec.n_kv_head * spec.head_dim,
        "ffn": spec.d_ff,
        "vocab": spec.vocab_size,
        "position": spec.context_length,
        "head_dim": spec.head_dim,
    }
    return sizes[axis.dimension] * axis.sections


@functools.lru_cache(maxsize=256)  # asked at every step
def matmul_parameters(spec: ModelSpec) -> int:
    """Parameters that multiply per token: the matrices of the blocks and the head, not the embedding look-up, never 0.

    For GPT-2 this is 12 n_layer d_model^2 + d_model vocab_size (Kaplan et al. 2001.08361, head included).
    """
    block = _matrices(get_family(spec.family).axes(spec).block.values(), spec)
    return spec.n_layer * block + spec.d_model * spec.vocab_size


@functools.lru_cache(maxsize=256)
def flops_per_token(spec: ModelSpec, seq_len_tokens: int) -> float:
    """FLOPs of forward and backward for one token: 6 N + 6 n_layer n_head head_dim seq_len.

    The second term is attention, 12 n_layer d_model seq_len (PaLM, 2204.02311, appendix B), halved because
    causal attention looks at half of the pairs.
    """
    return 6.0 * matmul_parameters(spec) + 6.0 * spec.n_layer * spec.n_head * spec.head_dim * seq_len_tokens


def count_parameters(model: nn.Module) -> int:
    """All trainable parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def mfu(flops_per_s_per_device: float, device_name: str) -> float | None:
    """Model FLOPs utilization against the device's dense bf16 peak; None for a device without a known one, or a slice of one (MIG)."""
    words = set(re.split(r"[\s-]+", device_name))
    if "MIG" in words:
        return None
    peak = next((flops for name, flops in _PEAK_FLOPS.items() if words.issuperset(name.split())), None)
    return flops_per_s_per_device / peak if peak else None


def _matrices(parameters: Iterable[Parameter], spec: ModelSpec) -> int:
    return sum(math.prod(axis_size(a, spec) for a in p.axes) for p in parameters if any(a.role in READING for a in p.axes))
