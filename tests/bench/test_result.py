"""What a row of the table says."""

import pytest

from tests.bench.result import Result, paired


@pytest.mark.parametrize(
    ("ratios", "target", "is_missed"),
    [
        ((0.8, 0.9, 1.3), ">= 0.90", False),
        ((0.8, 0.89, 1.3), ">= 0.90", True),
        ((1.0, 1.5), "<= 1", True),
        ((0.5, 1.5), "<= 1", False),
        ((9.0,), "(124M: 2)", False),
    ],
)
def test_a_target_is_missed_by_the_median(ratios: tuple[float, ...], target: str, is_missed: bool) -> None:
    result = Result("a bench", "another", "x", ratios, target, "")
    assert result.is_missed == is_missed
    assert ("missed" in result.line()) == is_missed


def test_pairs_take_turns_to_be_first_and_one_warms_up() -> None:
    order: list[str] = []

    def timed(name: str, figure: float) -> float:
        order.append(name)
        return figure

    assert paired(lambda: timed("a", 6.0), lambda: timed("b", 3.0), 3) == [2.0, 2.0, 2.0]
    assert "".join(order) == "ababbaab"
