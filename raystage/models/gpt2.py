"""The GPT-2 family: learned positions, LayerNorm, GELU, tied or untied head (Radford et al. 2019)."""

import copy
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PretrainedConfig

from raystage.models.attention import attend_causally
from raystage.models.axes import Axis, AxisTable, Parameter
from raystage.models.family import build_on_meta
from raystage.models.spec import ModelSpec

GAIN, BIAS = Parameter((Axis("embed", "gain"),)), Parameter((Axis("embed", "bias"),))
WRITE = Axis("embed", "write")
QKV = Axis("heads", "out", sections=3)

# transformers' Conv1D keeps its weight as (in, out)
_BLOCK = {
    "ln_1.weight": GAIN,
    "ln_1.bias": BIAS,
    "attn.c_attn.weight": Parameter((Axis("embed", "read"), QKV)),
    "attn.c_attn.bias": Parameter((QKV,)),
    "attn.c_proj.weight": Parameter((Axis("heads", "in"), WRITE), output_projection=True),
    "attn.c_proj.bias": Parameter((WRITE,), output_projection=True),
    "ln_2.weight": GAIN,
    "ln_2.bias": BIAS,
    "mlp.c_fc.weight": Parameter((Axis("embed", "read"), Axis("ffn", "out"))),
    "mlp.c_fc.bias": Parameter((Axis("ffn", "out"),)),
    "mlp.c_proj.weight": Parameter((Axis("ffn", "in"), WRITE), output_projection=True),
    "mlp.c_proj.bias": Parameter((WRITE,), output_projection=True),
}
_EMBEDDINGS = {
    "transformer.wte.weight": Parameter((Axis("vocab"), WRITE)),
    "transformer.wpe.weight": Parameter((Axis("position"), WRITE)),
}
_TIED = {
    "transformer.ln_f.weight": Parameter((Axis("embed", "tied_gain"),)),
    "transformer.ln_f.bias": Parameter((Axis("embed", "tied_bias"),)),
}
_UNTIED = {
    "transformer.ln_f.weight": GAIN,
    "transformer.ln_f.bias": BIAS,
    "lm_head.weight": Parameter((Axis("vocab"), Axis("embed", "read"))),
}


class Gpt2:
    """transformers' GPT2LMHeadModel with SDPA attention."""

    heads_fill_width = True

    def width_fits(self, spec: ModelSpec) -> bool:
        return spec.d_model == spec.n_head * spec.head_dim

    def axes(self, spec: ModelSpec) -> AxisTable:
        return AxisTable("transformer.h.{}.", _BLOCK, {**_EMBEDDINGS, **(_TIED if spec.tied else _UNTIED)}, norm="layer")

    def config(self, spec: ModelSpec) -> PretrainedConfig:
        config = GPT2Config(
            vocab_size=spec.vocab_size,
            n_positions=spec.context_length,
            n_embd=spec.d_model,
            n_layer=spec.n_layer,
            n_head=spec.n_head,
            n_inner=spec.d_ff,
            activation_function="gelu_pytorch_tanh",  # GPT-2's gelu_new as one fused operation
            resid_pdrop=spec.dropout,
            embd_pdrop=spec.dropout,
            attn_pdrop=spec.dropout,
            bos_token_id=spec.eot_id,
            eos_token_id=spec.eot_id,
            tie_word_embeddings=spec.tied,
            use_cache=False,
        )
        attend_causally(config)
        return config

    def read(self, config: PretrainedConfig) -> ModelSpec:
        for key in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"):
            if getattr(config, key, False):
                raise ValueError(f"gpt2 with {key}: growth does not know how to keep its function")
        return ModelSpec(
            family="gpt2",
            vocab_size=config.vocab_size,
            context_length=config.n_positions,
            n_layer=config.n_layer,
            d_model=config.n_embd,
            n_head=config.n_head,
            n_kv_head=config.n_head,
            head_dim=config.n_embd // config.n_head,
            d_ff=config.n_inner or 4 * config.n_embd,
            tied=config.tie_word_embeddings,
            rope_theta=None,
            dropout=config.resid_pdrop,
            eot_id=config.eos_token_id,
        )

    def resize(self, config: PretrainedConfig, spec: ModelSpec, layer_sources: Sequence[int | None]) -> PretrainedConfig:
        resized = copy.deepcopy(config)
        resized.n_embd, resized.n_head, resized.n_inner = spec.d_model, spec.n_head, spec.d_ff
        resized.n_layer, resized.n_positions = spec.n_layer, spec.context_length
        if hasattr(resized, "n_ctx"):  # the same again in older configurations
            resized.n_ctx = spec.context_length
        return resized

    def build(self, config: PretrainedConfig) -> nn.Module:
        return cast(nn.Module, GPT2LMHeadModel(cast(GPT2Config, config)))

    def build_empty(self, config: PretrainedConfig) -> nn.Module:
        return build_on_meta(self, config)

    def hidden_states(self, model: nn.Module, input_ids_BL: Tensor, mask_B1LL: Tensor | None, position_BL: Tensor | None) -> Tensor:
        backbone = cast(GPT2LMHeadModel, model).transformer
        output = backbone(input_ids=input_ids_BL, attention_mask=mask_B1LL, position_ids=position_BL, use_cache=False)
        return cast(Tensor, output.last_hidden_state)

    def head_weight(self, model: nn.Module) -> Tensor:
        return cast(Tensor, cast(GPT2LMHeadModel, model).lm_head.weight)
