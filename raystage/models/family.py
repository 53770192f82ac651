"""A family: how to build a model of a given shape, where its loss comes from, and what its axes mean."""

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raystage.models.axes import AxisTable


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything that fixes a model's tensors. `head_dim` is the same at every size of a run."""

    family: str
    vocab_size: int
    context_length: int
    n_layer: int
    d_model: int
    head_dim: int
    dropout: float
    eot_id: int

    @property
    def n_head(self) -> int:
        return self.d_model // self.head_dim


class Family(Protocol):
    axes: AxisTable

    def build(self, spec: ModelSpec) -> nn.Module:
        """A transformers causal LM with fresh initial values from torch's global generator, in float32."""
        ...

    def hidden_states(self, model: nn.Module, input_ids_BL: Tensor, mask_B1LL: Tensor | None, position_BL: Tensor | None) -> Tensor:
        """The final hidden states (B, L, D), after the last norm."""
        ...

    def head_weight(self, model: nn.Module) -> Tensor:
        """The weight (V, D) that turns hidden states into logits."""
        ...


def get_family(name: str) -> Family:
    """The family of that name. Raises KeyError for an unknown one."""
    from raystage.models.gpt2 import Gpt2

    families: dict[str, Family] = {"gpt2": Gpt2()}
    return families[name]


def build_model(spec: ModelSpec, seed: int) -> Any:
    """A model of `spec` whose initial values depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_family(spec.family).build(spec)
