"""Orders: what rank 0 decides is what the others hear, for every kind of decision."""

import dataclasses
from typing import get_args

import pytest

from raystage.devices.ranks import Ranks
from raystage.pacing.point import Action, Decision, Trigger
from raystage.pacing.stage import Change, Plan, Shape
from raystage.training.control import Orders, share_orders

CHANGE = Change(n_layer=4)
PLAN = Plan(Shape(8, 2, 64, 128), ((Change(seq_len_tokens=16),), (CHANGE,)))


class _Other(Ranks):
    """Another rank than the first, which hears `said`."""

    said: list[int]

    def from_first(self, values: list[int]) -> list[int]:
        return self.said


def heard(orders: Orders, n_rollbacks: int = 0) -> Orders:
    """The orders of rank 0 on another rank."""
    said: list[int] = []

    class First(Ranks):
        def from_first(self, values: list[int]) -> list[int]:
            said.extend(values)
            return values

    share_orders(First(), orders, PLAN, (1, 0), n_rollbacks)
    other = _Other(rank=1, world_size=2)
    object.__setattr__(other, "said", said)
    return share_orders(other, Orders(None, False, None, 0.0), PLAN, (1, 0), n_rollbacks)


@pytest.mark.parametrize("action", get_args(Action))
@pytest.mark.parametrize("trigger", get_args(Trigger))
def test_every_decision_arrives_as_it_was_but_for_its_reasons(action: Action, trigger: Trigger) -> None:
    change = CHANGE if action == "change" else None
    decision = Decision(action, (1, 0), 20, 31, trigger, 1, change, slope=-0.05, reason="why", command_id=3, n_rollbacks=2)
    orders = heard(Orders(decision, True, None, 1.5), n_rollbacks=2)
    bare = dataclasses.replace(decision, slope=None, reason="", command_id=None)
    assert orders == Orders(bare, True, None, 1.5)


def test_no_decision_arrives_as_none() -> None:
    assert heard(Orders(None, False, "left", 0.25)) == Orders(None, False, "left", 0.25)
