"""Llama-like families: rotary positions, RMSNorm, SwiGLU, grouped-query attention, tied or untied head.

Sources: Touvron et al. 2302.13971 (Llama), Ainslie et al. 2305.13245 (GQA), 2505.09388 (Qwen3: norms on queries and keys).
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, Qwen3Config, Qwen3ForCausalLM

from raystage.models.attention import attend_causally
from raystage.models.axes import Axis, AxisTable, Parameter
from raystage.models.family import build_on_meta
from raystage.models.spec import ModelSpec

READ, WRITE = Axis("embed", "read"), Axis("embed", "write")
GAIN = Parameter((Axis("embed", "gain"),))
HEAD_NORM = Parameter((Axis("head_dim"),))

# biases are there only where the configuration asks for them
_BLOCK = {
    "input_layernorm.weight": GAIN,
    "self_attn.q_proj.weight": Parameter((Axis("heads", "out"), READ)),
    "self_attn.q_proj.bias": Parameter((Axis("heads", "out"),)),
    "self_attn.k_proj.weight": Parameter((Axis("kv_heads", "out"), READ)),
    "self_attn.k_proj.bias": Parameter((Axis("kv_heads", "out"),)),
    "self_attn.v_proj.weight": Parameter((Axis("kv_heads", "out"), READ)),
    "self_attn.v_proj.bias": Parameter((Axis("kv_heads", "out"),)),
    "self_attn.q_norm.weight": HEAD_NORM,
    "self_attn.k_norm.weight": HEAD_NORM,
    "self_attn.o_proj.weight": Parameter((WRITE, Axis("heads", "in")), output_projection=True),
    "self_attn.o_proj.bias": Parameter((WRITE,), output_projection=True),
    "post_attention_layernorm.weight": GAIN,
    "mlp.gate_proj.weight": Parameter((Axis("ffn", "out"), READ)),
    "mlp.gate_proj.bias": Parameter((Axis("ffn", "out"),)),
    "mlp.up_proj.weight": Parameter((Axis("ffn", "out"), READ)),
    "mlp.up_proj.bias": Parameter((Axis("ffn", "out"),)),
    "mlp.down_proj.weight": Parameter((WRITE, Axis("ffn", "in")), output_projection=True),
    "mlp.down_proj.bias": Parameter((WRITE,), output_projection=True),
}
_EMBEDDING = {"model.embed_tokens.weight": Parameter((Axis("vocab"), WRITE))}
_TIED = {"model.norm.weight": Parameter((Axis("embed", "tied_gain"),))}
_UNTIED = {"model.norm.weight": GAIN, "lm_head.weight": Parameter((Axis("vocab"), READ))}


@dataclasses.dataclass(frozen=True)
class LlamaLike:
    """One pair of transformers classes with Llama's parameter names, SDPA attention. Dropout is on attention alone.

    `heads_divide_width`: Llama's class wants d_model to be a multiple of n_head, whatever the head dimension.
    """

    name: str
    config_class: Any
    model_class: Any
    heads_divide_width: bool
    heads_fill_width: bool = False

    def width_fits(self, spec: ModelSpec) -> bool:
        return not self.heads_divide_width or spec.d_model % spec.n_head == 0

    def axes(self, spec: ModelSpec) -> AxisTable:
        return AxisTable("model.layers.{}.", _BLOCK, {**_EMBEDDING, **(_TIED if spec.tied else _UNTIED)}, norm="rms")

    def config(self, spec: ModelSpec) -> PretrainedConfig:
        config = self.config_class(
            vocab_size=spec.vocab_size,
            max_position_embeddings=spec.context_length,
            hidden_size=spec.d_model,
            num_hidden_layers=spec.n_layer,
            num_attention_heads=spec.n_head,
            num_key_value_heads=spec.n_kv_head,
            head_dim=spec.head_dim,
            intermediate_size=spec.d_ff,
            rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
            attention_dropout=spec.dropout,
            bos_token_id=spec.eot_id,
            eos_token_id=spec.eot_id,
            tie_word_embeddings=spec.tied,
            use_cache=False,
        )
        attend_causally(config)
        return cast(PretrainedConfig, config)

    def read(self, config: PretrainedConfig) -> ModelSpec:
        eos = config.eos_token_id
        return ModelSpec(
            family=self.name,
            vocab_size=config.vocab_size,
            context_length=config.max_position_embeddings,
            n_layer=config.num_hidden_layers,
            d_model=config.hidden_size,
            n_head=config.num_attention_heads,
            n_kv_head=config.num_key_value_heads,
            head_dim=config.head_dim,
            d_ff=config.intermediate_size,
            tied=config.tie_word_embeddings,
            rope_theta=config.rope_parameters["rope_theta"],
            dropout=config.attention_dropout,
            eot_id=eos[0] if isinstance(eos, list) else eos,
        )

    def resize(self, config: PretrainedConfig, spec: ModelSpec, layer_sources: Sequence[int | None]) -> PretrainedConfig:
        resized: Any = copy.deepcopy(config)
        resized.hidden_size, resized.intermediate_size, resized.head_dim = spec.d_model, spec.d_ff, spec.head_dim
        resized.num_attention_heads, resized.num_key_value_heads = spec.n_head, spec.n_kv_head
        resized.num_hidden_layers, resized.max_position_embeddings = spec.n_layer, spec.context_length
        resized.rope_parameters = {**config.rope_parameters, "rope_theta": spec.rope_theta}
        if (kinds := getattr(config, "layer_types", None)) is not None:
            resized.layer_types = ["full_attention" if source is None else kinds[source] for source in layer_sources]
        return cast(PretrainedConfig, resized)

    def build(self, config: PretrainedConfig) -> nn.Module:
        return cast(nn.Module, self.model_class(config))

    def build_empty(self, config: PretrainedConfig) -> nn.Module:
        model: Any = build_on_meta(self, config)
        # the rotary frequencies are buffers that no checkpoint holds
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
        return cast(nn.Module, model)

    def hidden_states(self, model: Any, input_ids_BL: Tensor, mask_B1LL: Tensor | None, position_BL: Tensor | None) -> Tensor:
        output = model.model(input_ids=input_ids_BL, attention_mask=mask_B1LL, position_ids=position_BL, use_cache=False)
        return cast(Tensor, output.last_hidden_state)

    def head_weight(self, model: Any) -> Tensor:
        return cast(Tensor, model.lm_head.weight)


LLAMA = LlamaLike("llama", LlamaConfig, LlamaForCausalLM, heads_divide_width=True)
QWEN3 = LlamaLike("qwen3", Qwen3Config, Qwen3ForCausalLM, heads_divide_width=False)
