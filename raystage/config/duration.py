"""A run's budget: a number and a unit, in one string."""

import dataclasses
import math
import re
from typing import Literal, cast

Unit = Literal["steps", "tokens", "flops", "hours"]
_PATTERN = re.compile(r"^\s*([0-9]+(?:_[0-9]+)*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*(steps?|tokens?|flops|hours?)\s*$")


@dataclasses.dataclass(frozen=True)
class Duration:
    amount: float
    unit: Unit


def parse_duration(text: str) -> Duration:
    """`"4e6 tokens"` -> Duration(4e6, "tokens"). Raises ValueError when `text` is no positive number and unit."""
    match = _PATTERN.match(text)
    amount = float(match.group(1)) if match else 0.0
    if match is None or amount <= 0 or not math.isfinite(amount):
        raise ValueError("a positive number and 'steps', 'tokens', 'flops' or 'hours', like '4e6 tokens'")
    unit = match.group(2)
    unit = unit if unit.endswith("s") else unit + "s"
    if unit == "steps" and amount != int(amount):
        raise ValueError("a whole number of steps")
    return Duration(amount, cast(Unit, unit))
