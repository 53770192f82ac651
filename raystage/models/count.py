"""Counting: parameters that multiply, FLOPs of a token, and the share of a device's peak that is used."""

from torch import nn

from raystage.models.family import ModelSpec

# dense bf16 without sparsity, FLOP/s per device (NVIDIA data sheets)
_PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "T4": 65e12}


def matmul_parameters(spec: ModelSpec) -> int:
    """Parameters that multiply per token: blocks and head, not the embedding look-up, never 0.

    Formula: 12 n_layer d_model^2 + d_model vocab_size (Kaplan et al. 2001.08361, head included).
    """
    return 12 * spec.n_layer * spec.d_model**2 + spec.d_model * spec.vocab_size


def flops_per_token(spec: ModelSpec, seq_len_tokens: int) -> float:
    """FLOPs of forward and backward for one token: 6 N + 6 n_layer d_model seq_len.

    The second term is attention, 12 n_layer d_model seq_len (PaLM, 2204.02311, appendix B), halved because
    causal attention looks at half of the pairs.
    """
    return 6.0 * matmul_parameters(spec) + 6.0 * spec.n_layer * spec.d_model * seq_len_tokens


def count_parameters(model: nn.Module) -> int:
    """All trainable parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def mfu(flops_per_s_per_device: float, device_name: str) -> float | None:
    """Model FLOPs utilization against the device's dense bf16 peak; None for a device without a known one."""
    peak = next((flops for name, flops in _PEAK_FLOPS.items() if name in device_name), None)
    return flops_per_s_per_device / peak if peak else None
