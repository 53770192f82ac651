"""The optimizer that the configuration asks for: torch's, with decay on matrices alone."""

import pytest
import torch
from torch import nn

from raystage.config.schema import Optimizer
from raystage.training.optimizer import largest_second_moment, make_optimizer, set_learning_rate


def model() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.LayerNorm(4))


def test_matrices_decay_and_vectors_do_not() -> None:
    made, net = make_optimizer(net := model(), Optimizer(weight_decay=0.3)), net
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in net.named_parameters()}
    assert found == {"0.weight": 0.3, "1.weight": 0.3, "1.bias": 0.0, "2.weight": 0.0, "2.bias": 0.0}


@pytest.mark.parametrize("lazy", [False, True])
def test_adamw_has_the_settings_it_was_given(lazy: bool) -> None:
    made = make_optimizer(model(), Optimizer(lr=0.02, beta1=0.7, beta2=0.8, eps=1e-3), lazy)
    assert type(made) is torch.optim.AdamW
    for group in made.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.7, 0.8), 1e-3)
        assert (group["fused"], group["capturable"]) == (not lazy, lazy)


def test_sgd_has_the_first_beta_for_momentum_and_adafactor_a_rate() -> None:
    sgd = make_optimizer(model(), Optimizer(kind="sgd", lr=0.02, beta1=0.7))
    assert type(sgd) is torch.optim.SGD
    assert {group["momentum"] for group in sgd.param_groups} == {0.7}
    adafactor = make_optimizer(model(), Optimizer(kind="adafactor", lr=0.02))
    assert type(adafactor) is torch.optim.Adafactor
    assert {group["lr"] for group in adafactor.param_groups} == {0.02}


def test_the_rate_of_a_step_is_that_of_every_group() -> None:
    made = make_optimizer(model(), Optimizer(lr=0.02))
    set_learning_rate(made, 0.5)
    assert [group["lr"] for group in made.param_groups] == [0.5, 0.5]


def test_the_largest_second_moment_is_over_all_tensors() -> None:
    net = model()
    made = make_optimizer(net, Optimizer(beta2=0.75))
    assert largest_second_moment(made) is None, "before the first step"
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    dict(net.named_parameters())["2.bias"].grad = torch.tensor([0.0, -4.0, 0.0, 0.0])
    made.step()
    largest = largest_second_moment(made)
    assert largest is not None
    assert float(largest) == pytest.approx(0.25 * 16)
    assert largest_second_moment(make_optimizer(net, Optimizer(kind="sgd"))) is None
