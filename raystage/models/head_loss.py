"""The cross-entropy behind a linear head, some rows at a time: the logits of a whole batch are by far its largest tensor.

A piece's gradients are computed with its loss, so that its logits can go (as in Hsu et al. 2410.10989, Liger); nothing is computed twice.
torch.nn.functional.linear_cross_entropy does the same, but returns the sum in half precision where the model computes in it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# below, a piece is not worth its overhead; above, adding up the weight's gradient costs little beside what a piece computes
_LOGITS_AT_ONCE, _WEIGHTS_AT_ONCE = 2**22, 2
_MOST_PIECES = 16


def summed_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Over all targets, in float32 or more; those of -100 count nothing. Products are in autocast's type where it is on."""
    in_one = len(hidden_ND) <= rows_at_once(len(hidden_ND), *weight_VD.shape)
    if in_one or not torch.is_grad_enabled() or hidden_ND.device.type == "xla":
        return cross_entropies(hidden_ND, weight_VD, targets_N).sum()
    dtype = _product_dtype(hidden_ND)
    loss: Tensor = _InPieces.apply(hidden_ND.to(dtype), weight_VD.to(dtype), targets_N)[0]
    return loss


def cross_entropies(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Of each target, shape (N,); 0 for those of -100."""
    if hidden_ND.device.type == "xla":  # it shares rows out to devices, and would have to move them
        return _cross_entropies(hidden_ND, weight_VD, targets_N)
    rows = rows_at_once(len(hidden_ND), *weight_VD.shape)
    pieces = zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    return torch.cat([_cross_entropies(hidden, weight_VD, targets) for hidden, targets in pieces])


def rows_at_once(n_rows: int, vocab_size: int, d_model: int) -> int:
    """So many of `n_rows` that their logits take twice the memory of the head's weight, or that of a small tensor; a 16th at least."""
    return max(1, _WEIGHTS_AT_ONCE * d_model, _LOGITS_AT_ONCE // vocab_size, -(-n_rows // _MOST_PIECES))


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """Autocast leaves doubles as they are."""
    device = hidden.device.type
    casts = torch.is_autocast_enabled(device) and hidden.dtype == torch.float32
    return torch.get_autocast_dtype(device) if casts else hidden.dtype


def _cross_entropies(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(_widened(F.linear(hidden_ND, weight_VD)), targets_N, ignore_index=-100, reduction="none")


def _widened(logits: Tensor) -> Tensor:
    return logits.to(_wide(logits))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)  # a loss in half precision would be too coarse


def _in_pieces(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss, and its gradients by the hidden states and by the weight."""
    rows = rows_at_once(len(hidden_ND), *weight_VD.shape)
    loss = hidden_ND.new_zeros((), dtype=_wide(hidden_ND))
    hidden_grad, weight_grad = torch.empty_like(hidden_ND), torch.zeros_like(weight_VD, dtype=_wide(weight_VD))
    for hidden, grad_out, targets in zip(hidden_ND.split(rows), hidden_grad.split(rows), targets_N.split(rows), strict=True):
        loss += _piece(hidden, weight_VD, targets, grad_out, weight_grad)
    return loss, hidden_grad, weight_grad.to(weight_VD.dtype)


def _piece(hidden: Tensor, weight_VD: Tensor, targets: Tensor, hidden_grad: Tensor, weight_grad: Tensor) -> Tensor:
    """The loss of some rows; their gradient goes into `hidden_grad`, and is added to `weight_grad`."""
    counts = (targets >= 0).to(hidden.dtype).unsqueeze(1)
    logp = F.log_softmax(_widened(hidden @ weight_VD.T), dim=1)
    loss = F.nll_loss(logp, targets, ignore_index=-100, reduction="sum")
    # softmax less one at the target
    grad = logp.exp_().scatter_add_(1, targets.clamp(min=0).unsqueeze(1), -torch.ones_like(counts, dtype=logp.dtype)).to(hidden.dtype)
    torch.mm(grad, weight_VD, out=hidden_grad)
    hidden_grad.mul_(counts)
    weight_grad += grad.T @ (hidden * counts)
    return loss


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return _in_pieces(hidden_ND, weight_VD, targets_N)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * outer[0].to(hidden_grad.dtype), weight_grad * outer[0].to(weight_grad.dtype), None
