"""A family: how to build a model of a given shape, where its loss comes from, and what its axes mean."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.initialization import no_init_weights

from raystage.models.axes import AxisTable
from raystage.models.spec import ModelSpec


class Family(Protocol):
    @property
    def heads_fill_width(self) -> bool:
        """Whether d_model is n_head x head_dim, so that one follows the other."""
        ...

    def width_fits(self, spec: ModelSpec) -> bool:
        """Whether the transformers class takes this width with these heads."""
        ...

    def axes(self, spec: ModelSpec) -> AxisTable:
        """What the dimensions of each parameter mean."""
        ...

    def config(self, spec: ModelSpec) -> PretrainedConfig:
        """The transformers configuration of a fresh model."""
        ...

    def read(self, config: PretrainedConfig) -> ModelSpec:
        """The spec of a model that may come from elsewhere. Raises ValueError for one that growth would break."""
        ...

    def resize(self, config: PretrainedConfig, spec: ModelSpec, layer_sources: Sequence[int | None]) -> PretrainedConfig:
        """`config` at the sizes of `spec`, all else kept. `layer_sources`: for each new layer the old one it comes from."""
        ...

    def build(self, config: PretrainedConfig) -> nn.Module:
        """A causal LM with fresh initial values from torch's global generator, in float32."""
        ...

    def build_empty(self, config: PretrainedConfig) -> nn.Module:
        """The same with its parameters on the meta device, to be filled by assignment; buffers are real."""
        ...

    def hidden_states(self, model: nn.Module, input_ids_BL: Tensor, mask_B1LL: Tensor | None, position_BL: Tensor | None) -> Tensor:
        """The final hidden states (B, L, D), after the last norm."""
        ...

    def head_weight(self, model: nn.Module) -> Tensor:
        """The weight (V, D) that turns hidden states into logits."""
        ...


def families() -> dict[str, Family]:
    """Every family by name; the name is the `model_type` of its transformers configuration."""
    from raystage.models.gpt2 import Gpt2
    from raystage.models.llama import LLAMA, QWEN3

    return {"gpt2": Gpt2(), "llama": LLAMA, "qwen3": QWEN3}


def get_family(name: str) -> Family:
    """The family of that name. Raises ValueError for an unknown one."""
    known = families()
    if name not in known:
        raise ValueError(f"model family {name!r} is unknown; raystage grows {', '.join(known)}")
    return known[name]


def blocks_of(model: nn.Module, spec: ModelSpec) -> list[nn.Module]:
    """Its transformer blocks, in their order."""
    prefix = get_family(spec.family).axes(spec).block_prefix
    return list(model.get_submodule(prefix.removesuffix(".{}.")).children())


def build_model(spec: ModelSpec, seed: int) -> Any:
    """A model of `spec` whose initial values depend on `seed` alone."""
    family = get_family(spec.family)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # a device's own would not be put back
        return family.build(family.config(spec))


def build_on_meta(family: Family, config: PretrainedConfig) -> nn.Module:
    """A model without memory, which takes no time to draw initial values for."""
    with torch.device("meta"), no_init_weights():
        model = family.build(config)
    cast(Any, model).tie_weights()
    return model


def build_with(config: PretrainedConfig, family: Family, parameters: dict[str, Tensor]) -> nn.Module:
    """A model of `config` whose parameters are these tensors, not copies. Raises ValueError when names or shapes differ."""
    model = family.build_empty(config)
    expected = dict(model.named_parameters())
    missing, extra = sorted(set(expected) - set(parameters)), sorted(set(parameters) - set(expected))
    if missing or extra:
        raise ValueError(f"tensors missing: {missing[:3] or 'none'}; not in the model: {extra[:3] or 'none'}")
    for name, tensor in parameters.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, the model has {tuple(expected[name].shape)}")
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, nn.Parameter(tensor))
    cast(Any, model).tie_weights()
    return model
