"""A training state as named tensors: what growth takes and returns, and what a checkpoint holds."""

import dataclasses

import torch
from torch import Tensor

OptimizerState = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class TrainingTensors:
    """Parameters by name, and the optimizer's state of each by the same names; one never stepped has no state.

    `optimizer`: class name of the optimizer whose state it is, like `AdamW`.
    """

    parameters: dict[str, Tensor]
    states: dict[str, OptimizerState] = dataclasses.field(default_factory=dict)
    optimizer: str = "AdamW"

    def to(self, device: torch.device) -> "TrainingTensors":
        """Copies there; what is there already is not copied."""
        states = {name: {field: value.to(device) for field, value in fields.items()} for name, fields in self.states.items()}
        return TrainingTensors({name: p.to(device) for name, p in self.parameters.items()}, states, self.optimizer)
