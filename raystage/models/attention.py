"""Causal attention without a look at the data: transformers' own masks read from the device whether sequences are packed, at each pass."""

from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "raystage_sdpa"  # known to transformers as attention, and not as a kind of mask, so that it makes none


def attend_causally(config: PretrainedConfig) -> None:
    """Lets models of `config` attend by SDPA, causally, or by the mask (B, 1, L, L) that they are given."""
    AttentionInterface.register(_NAME, sdpa_attention_forward)
    config._attn_implementation = _NAME
