"""A training state as named tensors: what growth takes and returns, and what a checkpoint holds."""

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Moments:
    """AdamW's state of one parameter: both moments have its shape; `step` is a scalar tensor."""

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor


@dataclasses.dataclass(frozen=True)
class TrainingTensors:
    """Parameters by name, and moments by the same names; a parameter never stepped has no moments."""

    parameters: dict[str, Tensor]
    moments: dict[str, Moments]
