"""Figures over seeds, against the baseline, in words."""

import math

import pytest

from raystage.studies.answer import answer
from raystage.studies.results import ArmResult, Spread
from tests.studies.made_study import made_study


def test_the_interval_is_students() -> None:
    spread = Spread((1.0, 2.0, 3.0))
    assert (spread.mean, spread.deviation) == (2.0, 1.0)
    assert spread.half_interval == pytest.approx(4.303 / math.sqrt(3))
    assert Spread((1.0,)).half_interval is None
    assert Spread(tuple(map(float, range(30)))).half_interval == pytest.approx(1.96 * 8.803408 / math.sqrt(30), rel=1e-4)


def result(name: str, difference: tuple[float, ...], saved: tuple[float, ...] | None) -> ArmResult:
    n = len(difference)
    return ArmResult(
        name, "", 1.0, False, 0, Spread((3.0,) * n), share=Spread((0.6,) * n), difference=Spread(difference),
        saved=(Spread(saved) if saved else None,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((-0.10, -0.11, -0.09), "ends better (-0.1000 nats, 95% interval ± 0.0248) than static"),
        ((0.10, 0.11, 0.09), "ends worse (+0.1000 nats, 95% interval ± 0.0248) than static"),
        ((-0.10, 0.11, -0.09), "ends not told apart (-0.0267 nats, 95% interval ± 0.2943) from static"),
        ((-0.10,), "ends below (-0.1000 nats, one seed) static"),
    ],
)
def test_a_verdict_needs_more_than_the_spread(difference: tuple[float, ...], words: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    study = made_study(tmp_path_factory.mktemp("study"))
    (line,) = answer(study, [result("static", (0.0,), None), result("depth", difference, None)]).splitlines()
    assert words in line
    assert "60% of its FLOPs" in line
    assert "same loss" not in line


def test_savings_are_said_with_their_range_and_their_sign(tmp_path_factory: pytest.TempPathFactory) -> None:
    study = made_study(tmp_path_factory.mktemp("study"))
    assert "30% less compute than static takes for the same loss (20% to 40%)" in answer(study, [result("depth", (0.1, 0.2), (0.2, 0.4))])
    assert "30% more compute than static takes for the same loss" in answer(study, [result("depth", (0.1, 0.2), (-0.2, -0.4))])


def test_an_arm_without_a_good_run_is_said_to_have_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    study = made_study(tmp_path_factory.mktemp("study"))
    assert "no run of it has ended well" in answer(study, [ArmResult("depth", "", None, False, 0)])
