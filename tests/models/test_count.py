"""Counts of parameters and FLOPs, beside what one gets with pencil and paper, and the share of a device's peak."""

import dataclasses

import pytest

from raystage.models.count import flops_per_token, matmul_parameters, mfu
from tests.growth.networks import GPT2, LLAMA


def test_a_gpt2_has_the_flops_of_its_matrices_and_of_half_the_attention() -> None:
    """Two layers of 16 channels, 24 units, 64 entries: 2 (4 x 16^2 + 2 x 16 x 24) + 16 x 64; no biases, norms, positions or look-up."""
    assert matmul_parameters(GPT2) == 2 * (4 * 256 + 2 * 384) + 1024 == 4608
    assert flops_per_token(GPT2, 16) == 6 * 4608 + 6 * 2 * 16 * 16 == 30720
    assert flops_per_token(GPT2, 32) - flops_per_token(GPT2, 16) == 6 * 2 * 16 * 16, "attention alone knows the length"


def test_a_gpt2_124m_has_kaplans_count() -> None:
    small = dataclasses.replace(GPT2, vocab_size=50304, context_length=1024, n_layer=12, d_model=768, n_head=12, head_dim=64, d_ff=3072)
    assert matmul_parameters(small) == 12 * 12 * 768**2 + 768 * 50304


def test_a_llama_has_gates_and_fewer_keys_than_queries() -> None:
    """Queries and output of 16 x 16, keys and values of 16 x 8, three matrices of 16 x 24."""
    assert matmul_parameters(LLAMA) == 2 * (2 * 256 + 2 * 128 + 3 * 384) + 1024


def test_no_layer_is_the_head_alone() -> None:
    none = dataclasses.replace(GPT2, n_layer=0)
    assert (matmul_parameters(none), flops_per_token(none, 16)) == (1024, 6 * 1024)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", 65e12),
    ],
)
def test_mfu_is_the_share_of_the_dense_bf16_peak_of_a_known_device(name: str, peak: float) -> None:
    assert mfu(peak / 2, name) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["AMD EPYC", "NVIDIA A10G", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA RTX 4000 Ada Generation"])
def test_mfu_is_not_told_of_others(name: str) -> None:
    assert mfu(1e12, name) is None
