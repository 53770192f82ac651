"""Durations: what a budget string means."""

import pytest

from raystage.config.duration import Duration, parse_duration


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("4e6 tokens", 4e6, "tokens"),
        ("1 step", 1.0, "steps"),
        ("200steps", 200.0, "steps"),
        ("1_000_000 tokens", 1e6, "tokens"),
        ("  2.5 hours ", 2.5, "hours"),
        ("1 hour", 1.0, "hours"),
        ("1.5E+18 flops", 1.5e18, "flops"),
        ("3e2 steps", 300.0, "steps"),
    ],
)
def test_number_and_unit(text: str, amount: float, unit: str) -> None:
    duration = parse_duration(text)
    assert (duration.amount, duration.unit) == (amount, unit)
    assert isinstance(duration, Duration)


@pytest.mark.parametrize(
    "text",
    [
        *("", "tokens", "4e6", "0 steps", "-3 steps", "1e999 steps", "1e999 tokens", "nan tokens", "inf hours", "1__0 steps", "1_ steps"),
        *("4 epochs", "4 Tokens", "1e steps", "1,000 tokens", "4 tokens 5", "1" * 5000 + " tokens"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a positive number and 'steps', 'tokens', 'flops' or 'hours'"):
        parse_duration(text)


def test_steps_are_whole() -> None:
    with pytest.raises(ValueError, match="a whole number of steps"):
        parse_duration("2.5 steps")
