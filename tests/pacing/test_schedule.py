"""Fixed rules against tables in exact fractions, worked out at every step without the code under test."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raystage.config import from_tree
from raystage.pacing.schedule import filled_lengths, is_due, rising_shares
from raystage.pacing.stage import take
from raystage.training.policy import plan_of

Rule = tuple[int, int, int, int, Fraction, int]  # min, max, step_tokens, duration in steps, fraction, degree

rules = st.tuples(
    st.integers(1, 160).map(lambda n: 8 * n),
    st.integers(0, 160).map(lambda n: 8 * n),
    st.integers(1, 40).map(lambda n: 8 * n),
    st.one_of(st.integers(1, 12), st.integers(1, 200)),
    st.integers(1, 100).map(lambda n: Fraction(n, 100)),
    st.integers(1, 3),
).map(lambda r: (r[0], r[0] + r[1], *r[2:]))


def table(rule: Rule, slack: Fraction = Fraction(0)) -> list[int]:
    """The length of each step by hand: the largest allowed one that is no longer than the curve, at the exact share behind the step."""
    low, high, step, duration, fraction, degree = rule
    begins = {low: 0}
    for length in (*(n for n in range(low + 1, high) if n % step == 0), *(n for n in (high,) if n > low)):
        # low + (high - low) (share / fraction)^(1 / degree) >= length, without the root
        begins[length] = math.ceil((Fraction(length - low, high - low) ** degree * fraction - slack) * duration)
    return [max(length for length, begin in begins.items() if begin <= number) for number in range(duration)]


def length_at(progress: float, values: Sequence[int], shares: Sequence[float]) -> int:
    """As the loop applies the changes that are due, one after the other."""
    return values[sum(is_due(progress, share) for share in shares)]


def as_built(rule: Rule) -> list[int]:
    low, high, step, duration, fraction, degree = rule
    lengths = filled_lengths(low, high, step)
    shares = rising_shares(lengths, float(fraction), degree)
    assert len(shares) == len(lengths) - 1
    return [length_at(number / duration, lengths, shares) for number in range(duration)]


@given(rules)
@settings(max_examples=200, deadline=None)
@example((128, 1024, 8, 1, Fraction(3, 10), 1))  # a run of one step
@example((128, 1024, 8, 10, Fraction(3, 10), 1))  # 3 / 10 is no binary fraction
@example((8, 48, 8, 100, Fraction(5, 100), 1))  # 0.05 * (1 / 5) rounds to above 0.01
@example((128, 128, 8, 7, Fraction(1, 2), 2))  # nothing to warm up
@example((8, 1280, 320, 200, Fraction(1), 3))
@example((24, 32, 64, 4, Fraction(1, 4), 2))  # no multiple in between
def test_every_step_has_the_length_of_the_table(rule: Rule) -> None:
    # the code allows for rounding by 1e-9 of the duration, so in a near-tie the table has two answers
    got, exact, early = as_built(rule), table(rule), table(rule, Fraction(2, 10**9))
    assert all(length in (a, b) for length, a, b in zip(got, exact, early, strict=True)), (got, exact)


@given(rules)
@settings(max_examples=200, deadline=None)
def test_within_the_bounds_rising_multiples_and_exact_at_both_ends(rule: Rule) -> None:
    low, high, step, duration, fraction, _ = rule
    got = as_built(rule)
    assert got[0] == low
    assert got == sorted(got)
    assert all(n % step == 0 for n in got if n not in (low, high))
    for number, length in enumerate(got):
        assert (length == high) == (Fraction(number, duration) >= fraction or low == high), (number, length)


@given(rules)
@settings(max_examples=200, deadline=None)
def test_shares_rise_from_above_zero_to_exactly_the_fraction(rule: Rule) -> None:
    low, high, step, _, fraction, degree = rule
    shares = rising_shares(filled_lengths(low, high, step), float(fraction), degree)
    assert shares == sorted(set(shares))
    assert all(share > 0 for share in shares)
    assert shares[-1:] == ([float(fraction)] if high > low else [])


def test_a_table_written_by_hand() -> None:
    """Composer's rule from 16 to 48 by 8s over the first half of 8 steps: 16 + 32 s / 0.5 at s = 0, 1/8, 2/8, 3/8, 4/8."""
    lengths = filled_lengths(16, 48, 8)
    assert lengths == [16, 24, 32, 40, 48]
    assert [length_at(i / 8, lengths, rising_shares(lengths, 0.5)) for i in range(8)] == [16, 24, 32, 40, 48, 48, 48, 48]
    # by a root of degree 2: 16 + 32 sqrt(s / 0.5) = 16, 32, 38.6, 43.7, 48
    assert [length_at(i / 8, lengths, rising_shares(lengths, 0.5, 2.0)) for i in range(8)] == [16, 32, 32, 40, 48, 48, 48, 48]


@pytest.mark.parametrize(("low", "high", "step", "lengths"), [(8, 8, 8, [8]), (8, 16, 8, [8, 16]), (10, 50, 16, [10, 16, 32, 48, 50])])
def test_filled_lengths(low: int, high: int, step: int, lengths: list[int]) -> None:
    assert filled_lengths(low, high, step) == lengths


@given(st.integers(1, 10_000), st.integers(1, 99))
def test_a_share_is_due_at_the_first_step_that_reaches_it(duration: int, percent: int) -> None:
    first = -(-percent * duration // 100)
    assert is_due(first / duration, percent / 100)
    assert not is_due((first - 1) / duration, percent / 100)


# -- from the configuration


def lengths_of_run(overrides: Sequence[str], duration: int) -> list[int]:
    """The length of each step of a run: each change of the plan at its share of the duration, as the loop applies them."""
    plan = plan_of(from_tree({}, ["model.context_length=512", *overrides]))
    taken, shape, lengths = plan.untouched, plan.start, []
    for number in range(duration):
        while due := [(t, c) for t, c in plan.heads(taken) if c.at is not None and is_due(number / duration, c.at)]:
            taken, shape = take(taken, due[0][0]), shape.after(due[0][1])
        lengths.append(shape.seq_len_tokens)
    return lengths


DURATIONS = [1, 2, 3, 10, 97, 400]


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize(("rule", "degree"), [("linear", 1), ("root", 2), ("root", 3)])
@pytest.mark.parametrize("percent", [1, 30, 99])
def test_linear_and_root_of_a_configuration(rule: str, degree: int, percent: int, duration: int) -> None:
    overrides = [f"pacing.rule={rule}", "pacing.lengths=[64, 512]", f"pacing.warmup.fraction={percent / 100}"]
    overrides += ["pacing.warmup.step_tokens=64", f"pacing.warmup.degree={degree}"]
    assert lengths_of_run(overrides, duration) == table((64, 512, 64, duration, Fraction(percent, 100), degree))


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize("percent", [1, 25, 30, 99])
def test_two_stages_of_a_configuration(percent: int, duration: int) -> None:
    overrides = ["pacing.rule=two_stage", "pacing.lengths=[128, 512]", f"pacing.warmup.fraction={percent / 100}"]
    assert lengths_of_run(overrides, duration) == [512 if 100 * i >= percent * duration else 128 for i in range(duration)]


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize("rule", ["discrete", "table"])
def test_discrete_and_table_of_a_configuration(rule: str, duration: int) -> None:
    overrides = [f"pacing.rule={rule}", "pacing.lengths=[64, 128, 512]", "pacing.at=[0.3, 0.35]"]
    by_hand = [512 if 100 * i >= 35 * duration else 128 if 10 * i >= 3 * duration else 64 for i in range(duration)]
    assert lengths_of_run(overrides, duration) == by_hand


def test_lengths_that_are_listed_stand_among_the_filled_ones() -> None:
    overrides = ["pacing.rule=linear", "pacing.lengths=[64, 200, 512]", "pacing.warmup.step_tokens=128", "model.context_length=512"]
    plan = plan_of(from_tree({}, overrides))
    assert [shape.seq_len_tokens for shape in plan.shapes()] == [64, 128, 200, 256, 384, 512]


def test_a_table_speaks_of_growth_too_and_a_rule_for_lengths_of_lengths_alone() -> None:
    paths: dict[str, Any] = {"pacing": {"lengths": [64, 256], "depths": [1, 4]}}
    tabled = plan_of(from_tree(paths, ["pacing.rule=table", "pacing.order=[depth, length]", "pacing.at=[0.1, 0.4]"]))
    assert [(change.kind, change.at) for change in tabled.changes] == [("depth", 0.1), ("length", 0.4)]
    ruled = plan_of(from_tree(paths, ["pacing.rule=two_stage"]))
    assert [(change.kind, change.at) for change in ruled.changes] == [("length", 0.3), ("depth", None)]
