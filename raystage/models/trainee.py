"""The model with its loss: one module whose forward is the loss, so that wrappers see all of it."""

from torch import Tensor, nn

from raystage.models.family import get_family
from raystage.models.head_loss import cross_entropies, summed_cross_entropy
from raystage.models.spec import ModelSpec


class Trainee(nn.Module):
    """Sum of the cross-entropy over a batch's targets; targets below 0 count nothing."""

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.model = model
        self.spec = spec
        self._family = get_family(spec.family)

    def forward(self, inputs_BL: Tensor, targets_BL: Tensor, mask_B1LL: Tensor | None = None, position_BL: Tensor | None = None) -> Tensor:
        hidden_ND = self._hidden(inputs_BL, mask_B1LL, position_BL)
        return summed_cross_entropy(hidden_ND, self._family.head_weight(self.model), targets_BL.flatten())

    def losses(self, inputs_BL: Tensor, targets_BL: Tensor, mask_B1LL: Tensor | None = None, position_BL: Tensor | None = None) -> Tensor:
        """The loss of each target, shape (B, L)."""
        hidden_ND = self._hidden(inputs_BL, mask_B1LL, position_BL)
        return cross_entropies(hidden_ND, self._family.head_weight(self.model), targets_BL.flatten()).view(targets_BL.shape)

    def _hidden(self, inputs_BL: Tensor, mask_B1LL: Tensor | None, position_BL: Tensor | None) -> Tensor:
        return self._family.hidden_states(self.model, inputs_BL, mask_B1LL, position_BL).flatten(0, 1)
