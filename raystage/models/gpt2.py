"""The GPT-2 family: learned positions, LayerNorm, GELU, tied head (Radford et al. 2019)."""

from typing import cast

from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from raystage.models.axes import Axis, AxisTable, Parameter
from raystage.models.family import ModelSpec

EMBED, HEADS, FFN = Axis("embed"), Axis("heads"), Axis("ffn")
EMBED_IN, HEADS_IN, FFN_IN = Axis("embed", "in"), Axis("heads", "in"), Axis("ffn", "in")
QKV = Axis("heads", sections=3)

# transformers' Conv1D keeps its weight as (in, out)
_AXES = AxisTable(
    block_prefix="transformer.h.{}.",
    block={
        "ln_1.weight": Parameter("vector", (EMBED,)),
        "ln_1.bias": Parameter("vector", (EMBED,)),
        "attn.c_attn.weight": Parameter("matrix", (EMBED_IN, QKV)),
        "attn.c_attn.bias": Parameter("vector", (QKV,)),
        "attn.c_proj.weight": Parameter("matrix", (HEADS_IN, EMBED), output_projection=True),
        "attn.c_proj.bias": Parameter("vector", (EMBED,), output_projection=True),
        "ln_2.weight": Parameter("vector", (EMBED,)),
        "ln_2.bias": Parameter("vector", (EMBED,)),
        "mlp.c_fc.weight": Parameter("matrix", (EMBED_IN, FFN)),
        "mlp.c_fc.bias": Parameter("vector", (FFN,)),
        "mlp.c_proj.weight": Parameter("matrix", (FFN_IN, EMBED), output_projection=True),
        "mlp.c_proj.bias": Parameter("vector", (EMBED,), output_projection=True),
    },
    outside={
        "transformer.wte.weight": Parameter("embedding", (Axis("vocab", "table"), EMBED)),
        "transformer.wpe.weight": Parameter("embedding", (Axis("position", "table"), EMBED)),
        "transformer.ln_f.weight": Parameter("head_vector", (EMBED,)),
        "transformer.ln_f.bias": Parameter("head_vector", (EMBED,)),
    },
)


class Gpt2:
    """transformers' GPT2LMHeadModel with SDPA attention and a tied head."""

    axes = _AXES

    def build(self, spec: ModelSpec) -> nn.Module:
        config = GPT2Config(
            vocab_size=spec.vocab_size,
            n_positions=spec.context_length,
            n_embd=spec.d_model,
            n_layer=spec.n_layer,
            n_head=spec.n_head,
            activation_function="gelu_pytorch_tanh",  # GPT-2's gelu_new as one fused operation
            resid_pdrop=spec.dropout,
            embd_pdrop=spec.dropout,
            attn_pdrop=spec.dropout,
            bos_token_id=spec.eot_id,
            eos_token_id=spec.eot_id,
            use_cache=False,
        )
        config._attn_implementation = "sdpa"
        return cast(nn.Module, GPT2LMHeadModel(config))

    def hidden_states(self, model: nn.Module, input_ids_BL: Tensor, mask_B1LL: Tensor | None, position_BL: Tensor | None) -> Tensor:
        backbone = cast(GPT2LMHeadModel, model).transformer
        output = backbone(input_ids=input_ids_BL, attention_mask=mask_B1LL, position_ids=position_BL, use_cache=False)
        return cast(Tensor, output.last_hidden_state)

    def head_weight(self, model: nn.Module) -> Tensor:
        return cast(Tensor, cast(GPT2LMHeadModel, model).lm_head.weight)
