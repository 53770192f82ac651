"""The loss in pieces is the loss of the whole, and no tensor of it is as large as the logits of the whole."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from raystage.models import head_loss
from raystage.models.family import build_model
from raystage.models.head_loss import rows_at_once, summed_cross_entropy
from raystage.models.spec import ModelSpec
from raystage.models.trainee import Trainee
from raystage.training.live_bytes import LiveBytes

N, D, V = 96, 16, 200


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_loss, "_LOGITS_AT_ONCE", 0)


def test_loss_and_gradients_are_those_of_the_whole() -> None:
    hidden, weight, targets = _made()
    ours = _loss_and_gradients(summed_cross_entropy, hidden, weight, targets)
    plain = _loss_and_gradients(_plain, hidden, weight, targets)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_in_bf16_the_loss_is_float32_and_the_gradients_are_no_coarser_than_those_of_the_whole() -> None:
    hidden, weight, targets = _made()
    true = _loss_and_gradients(_plain, hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        ours = _loss_and_gradients(summed_cross_entropy, hidden.float(), weight.float(), targets)
        plain = _loss_and_gradients(_plain, hidden.float(), weight.float(), targets)
    assert [tensor.dtype for tensor in ours] == [torch.float32] * 3
    for mine, theirs, exact in zip(ours, plain, true, strict=True):
        assert _error(mine, exact) < 1.2 * _error(theirs, exact) + 1e-6


def test_without_gradients_it_is_the_same_number() -> None:
    hidden, weight, targets = _made()
    with torch.no_grad():
        torch.testing.assert_close(summed_cross_entropy(hidden, weight, targets), _plain(hidden, weight, targets))


@pytest.mark.parametrize("with_gradients", [True, False])
def test_the_logits_of_the_whole_are_never_there(with_gradients: bool) -> None:
    hidden, weight, targets = _made()
    with torch.set_grad_enabled(with_gradients), Largest() as ours:
        summed_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), targets)
    assert ours.n_elements == rows_at_once(N, V, D) * V < N * V / 2
    with Largest() as plain:
        _plain(hidden, weight, targets)
    assert plain.n_elements == N * V


def test_a_model_trains_alike_for_20_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = _losses()
    monkeypatch.setattr(head_loss, "_WEIGHTS_AT_ONCE", 10**6)
    assert ours == pytest.approx(_losses(), rel=1e-5)


def test_a_piece_lets_go_of_its_logits() -> None:
    hidden, weight, targets = _made()
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    with LiveBytes() as counter:
        counter.begin([])
        loss = summed_cross_entropy(hidden, weight, targets)
    assert loss.requires_grad
    gradients = 3 * V * D
    assert counter.peak_bytes < 8 * (2.5 * rows_at_once(N, V, D) * V + gradients)  # logits and their logarithms, and no piece before


@pytest.mark.parametrize(("n_rows", "n_pieces"), [(1, 1), (32, 1), (33, 2), (96, 3), (32 * 16, 16), (32 * 1000, 16)])
def test_pieces_are_few(n_rows: int, n_pieces: int) -> None:
    assert math.ceil(n_rows / rows_at_once(n_rows, V, D)) == n_pieces


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation returns."""

    n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor):
                self.n_elements = max(self.n_elements, tensor.numel())
        return out


def _made() -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    targets = torch.randint(V, (N,), generator=made)
    targets[[0, 40, 41, 95]] = -100  # in several pieces, first and last
    return torch.randn(N, D, dtype=torch.float64, generator=made), torch.randn(V, D, dtype=torch.float64, generator=made), targets


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), targets, ignore_index=-100, reduction="sum")


def _loss_and_gradients(
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor, targets: Tensor
) -> list[Tensor]:
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = loss_of(hidden, weight, targets)
    (0.25 * loss).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return [loss.detach(), hidden.grad, weight.grad]


def _error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def _losses() -> list[float]:
    """Of a model whose head is its embedding, too."""
    spec = ModelSpec(
        family="gpt2", vocab_size=V, context_length=16, n_layer=2, d_model=D, n_head=2, n_kv_head=2, head_dim=8, d_ff=64,
        tied=True, rope_theta=None, dropout=0.0, eot_id=0,
    )  # fmt: skip
    trainee, found = Trainee(build_model(spec, 0), spec), []
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-3)
    tokens = torch.randint(V, (20, 6, 17), generator=torch.Generator().manual_seed(1))
    for step in range(20):
        loss = trainee(tokens[step, :, :-1], tokens[step, :, 1:])
        (loss / 96).backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found
