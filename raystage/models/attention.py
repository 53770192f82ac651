"""Causal attention without a look at the data: transformers' own masks read from the device whether sequences are packed, at each pass."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from raystage.devices.float32_products import small_products

_MKL_BELOW_TOKENS = 512  # measured with heads of 32 to 128, forward and backward
_NAME = "raystage_sdpa"  # known to transformers as attention, and not as a kind of mask, so that it makes none


def attend_causally(config: PretrainedConfig) -> None:
    """Lets models of `config` attend by SDPA, causally, or by the mask (B, 1, L, L) that they are given."""
    AttentionInterface.register(_NAME, _attend)
    config._attn_implementation = _NAME


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *others: Any, **settings: Any) -> tuple[Tensor, None]:
    def attended() -> Tensor:
        return sdpa_attention_forward(module, query, key, value, *others, **settings)[0]

    # a compiled block has one library for all its products, and one code for all lengths
    if torch.compiler.is_compiling() or query.shape[2] >= _MKL_BELOW_TOKENS:
        return attended(), None
    return small_products(attended, query), None
