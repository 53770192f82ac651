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
_MOST_PIECES = 16  # a compiler unrolls them


def summed_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Over all targets, in float32 or more; those below 0 count nothing. Products are in autocast's type where it is on."""
    rows = rows_at_once(len(hidden_ND), *weight_VD.shape)
    if len(hidden_ND) <= rows or not torch.is_grad_enabled() or hidden_ND.device.type == "xla":
        return cross_entropies(hidden_ND, weight_VD, targets_N).sum()
    loss: Tensor = _InPieces.apply(hidden_ND, weight_VD, targets_N, rows)
    return loss


def cross_entropies(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Of each target, shape (N,); 0 for those below 0."""
    rows = rows_at_once(len(hidden_ND), *weight_VD.shape)
    if len(hidden_ND) <= rows or hidden_ND.device.type == "xla":  # XLA shares rows out to devices, and would have to move them
        return _cross_entropies(hidden_ND, weight_VD, targets_N)
    pieces = zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    return torch.cat([_cross_entropies(hidden, weight_VD, targets) for hidden, targets in pieces])


def rows_at_once(n_rows: int, vocab_size: int, d_model: int) -> int:
    """So many of `n_rows` that their logits take twice the memory of the head's weight, or that of a small tensor."""
    return max(_WEIGHTS_AT_ONCE * d_model, _LOGITS_AT_ONCE // vocab_size, -(-n_rows // _MOST_PIECES))


def _cross_entropies(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(_widened(F.linear(hidden_ND, weight_VD)), targets_N, ignore_index=-100, reduction="none")


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))  # a loss in half precision would be too coarse


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, rows: int) -> Tensor:
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        with torch.autocast(device, enabled=False):
            hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
            loss, hidden_grad, weight_grad = _in_pieces(hidden, weight, targets_N, rows)
        ctx.save_for_backward(hidden_grad.to(hidden_ND.dtype), weight_grad.to(weight_VD.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * outer[0], weight_grad * outer[0], None, None


def _in_pieces(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss, and its gradients by the hidden states and by the weight."""
    wide = torch.promote_types(hidden_ND.dtype, torch.float32)
    loss = hidden_ND.new_zeros((), dtype=wide)
    hidden_grad = torch.empty_like(hidden_ND)
    weight_grad = torch.zeros_like(weight_VD, dtype=wide)
    for hidden, grad_out, targets in zip(hidden_ND.split(rows), hidden_grad.split(rows), targets_N.split(rows), strict=True):
        counts = (targets >= 0).to(hidden.dtype).unsqueeze(1)
        logp = F.log_softmax(_widened(hidden @ weight_VD.T), dim=1)
        loss = loss + F.nll_loss(logp, targets, ignore_index=-100, reduction="sum")
        # softmax less one at the target
        grad = logp.exp_().scatter_add_(1, targets.clamp(min=0).unsqueeze(1), -torch.ones_like(counts, dtype=wide)).to(hidden.dtype)
        torch.mm(grad, weight_VD, out=grad_out)
        grad_out.mul_(counts)
        weight_grad += grad.T @ (hidden * counts)
    return loss, hidden_grad, weight_grad
