"""The model with its loss: one module whose forward is the loss, so that wrappers and compilers see all of it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystage.models.family import ModelSpec, get_family


class Trainee(nn.Module):
    """Sum of the cross-entropy over a batch's targets; targets below 0 count nothing."""

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self._family = get_family(spec.family)

    def forward(self, inputs_BL: Tensor, targets_BL: Tensor, mask_B1LL: Tensor | None = None, position_BL: Tensor | None = None) -> Tensor:
        return self._cross_entropy(inputs_BL, targets_BL, mask_B1LL, position_BL, "sum")

    def losses(self, inputs_BL: Tensor, targets_BL: Tensor, mask_B1LL: Tensor | None = None, position_BL: Tensor | None = None) -> Tensor:
        """The loss of each target, shape (B, L)."""
        return self._cross_entropy(inputs_BL, targets_BL, mask_B1LL, position_BL, "none").view(targets_BL.shape)

    def _cross_entropy(
        self, inputs_BL: Tensor, targets_BL: Tensor, mask_B1LL: Tensor | None, position_BL: Tensor | None, reduction: str
    ) -> Tensor:
        hidden_BLD = self._family.hidden_states(self.model, inputs_BL, mask_B1LL, position_BL)
        logits_BLV = F.linear(hidden_BLD, self._family.head_weight(self.model))
        wide = torch.promote_types(logits_BLV.dtype, torch.float32)  # a loss in half precision would be too coarse
        return F.cross_entropy(logits_BLV.flatten(0, 1).to(wide), targets_BL.flatten(), ignore_index=-100, reduction=reduction)
