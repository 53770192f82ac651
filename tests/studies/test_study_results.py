"""Figures over seeds, against the baseline, in words."""

import dataclasses
import math
from pathlib import Path

import pytest

from raystage.config.study import Study
from raystage.studies.answer import answer
from raystage.studies.changes import changes_of
from raystage.studies.page import Findings, page_of
from raystage.studies.report import commits_of
from raystage.studies.results import Against, ArmResult, Saved
from raystage.studies.spread import Spread, spread_of
from raystage.tracking.records import Record
from tests.studies.made_study import made_study


def test_the_interval_is_students() -> None:
    spread = Spread((1.0, 2.0, 3.0))
    assert (spread.mean, spread.deviation) == (2.0, 1.0)
    assert spread.half_interval == pytest.approx(4.302653 / math.sqrt(3))
    assert Spread((1.0,)).half_interval is None
    assert Spread(tuple(map(float, range(30)))).half_interval == pytest.approx(2.04523 * 8.803408 / math.sqrt(30), rel=1e-4)


def test_what_is_not_finite_is_of_no_spread() -> None:
    assert spread_of([1.0, math.nan, None, 3.0]) == Spread((1.0, 3.0))
    assert spread_of([math.nan]) is None


def result(name: str, difference: tuple[float, ...], *saved: Saved, n_diverged: int = 0) -> ArmResult:
    n = len(difference)
    return ArmResult(
        name, "", False, 1.0, False, n, n + n_diverged, n_diverged, loss=Spread((3.0,) * n), share=Spread((0.6,) * n),
        difference=Spread(difference), saved=saved,
    )  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made_study(tmp_path)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((-0.10, -0.11, -0.09), "ends better (-0.1000 nats, 95% interval ± 0.0248) than static"),
        ((0.10, 0.11, 0.09), "ends worse (+0.1000 nats, 95% interval ± 0.0248) than static"),
        ((-0.10, 0.11, -0.09), "ends at a loss not told apart (-0.0267 nats, 95% interval ± 0.2943) from that of static"),
        ((-0.10,), "ends below (-0.1000 nats) static"),
    ],
)
def test_a_verdict_needs_more_than_the_spread(study: Study, difference: tuple[float, ...], words: str) -> None:
    line = answer(study, [result("depth", difference)])
    assert words in line
    assert "60% of its FLOPs" in line
    assert "same loss" not in line


def test_the_baseline_with_other_budgets_is_no_answer(study: Study) -> None:
    assert answer(study, [dataclasses.replace(result("half", (0.1,)), is_variant=True)]) == ""


def test_savings_are_said_with_interval_sign_bound_and_level(study: Study) -> None:
    difference = (0.1, 0.2)
    assert "30.0% ± 127.1% less compute than static for the same loss" in answer(
        study, [result("a", difference, Saved(Spread((0.2, 0.4))))]
    )
    assert "30.0% ± 127.1% more compute than static" in answer(study, [result("a", difference, Saved(Spread((-0.2, -0.4))))])
    one_beyond = answer(study, [result("a", difference, Saved(Spread((0.2, 0.4)), "at least", n_beyond=1))])
    assert "; at least 30.0% less compute than static for the same loss (1 of 2 seeds beyond what is known of static);" in one_beyond
    assert "; at least 30.0% more" in answer(study, [result("a", difference, Saved(Spread((-0.3, -0.3)), "at most", n_beyond=2))])
    assert "; saves nothing for the same loss;" in answer(study, [result("a", difference, Saved(Spread((0.0, 0.0)), "at most"))])
    levels = answer(study, [result("a", difference, *(Saved(Spread((0.3,)), level=level) for level in (0.5, 0.9)))])
    assert "for the loss that static has at 50% of its run; " in levels
    assert "at 90% of its run" in levels


def test_an_arm_of_which_a_seed_diverged_is_not_better(study: Study) -> None:
    line = answer(study, [result("depth", (-0.10, -0.11, -0.09), n_diverged=1)])
    assert "not told apart" in line
    assert "1 of 4 runs diverged; 3 seeds" in line


def test_a_baseline_that_diverged_is_said_and_hides_no_figure_of_the_others(study: Study) -> None:
    unstable = {"n_unstable": Spread((40.0, 42.0))}
    base = ArmResult("static", "", True, 1.0, False, 2, 2, 2, extra=unstable)
    other = dataclasses.replace(result("depth", (0.1, 0.2)), difference=None, extra={"n_unstable": Spread((3.0, 5.0))})
    lines = answer(study, [base, other]).splitlines()
    assert lines[0] == "- **static**: 2 of 2 runs diverged."
    assert "no run of static that ended well" in lines[1]
    assert "steps with a loss ratio above 1.2: 4 ± 1.414 (static: 41 ± 1.414)" in lines[1]


def test_an_arm_beside_another_one(study: Study) -> None:
    beside = Against("length", Spread((-0.10, -0.11, -0.09)), Spread((0.2, 0.2, 0.2)))
    line = answer(study, [dataclasses.replace(result("depth", (-0.1, -0.2)), against=(beside, dataclasses.replace(beside, saved=None)))])
    assert "; ends better (-0.1000 nats, 95% interval ± 0.0248) than length, and its saving is 20.0 ± 0.0 percentage points larger" in line
    assert line.count("than length") == 2


def test_what_has_not_run_and_what_always_diverged_are_two_things(study: Study, tmp_path: Path) -> None:
    nothing = ArmResult("depth", "", False, None, False, 3, 0, 0)
    assert "not run yet" in answer(study, [nothing])
    tried = dataclasses.replace(nothing, trials={0.5: 3.25, 1.0: None})
    assert "its rates are being tried" in answer(study, [tried])
    assert "diverged at all of the 2 rates that were tried" in answer(study, [dataclasses.replace(nothing, trials={0.5: None, 1.0: None})])
    taking = made_study(tmp_path, arms={"depth": {}, "other": {"rate_of": "depth"}}, baseline="depth")
    lines = answer(taking, [dataclasses.replace(nothing, trials={0.5: None, 1.0: None}), dataclasses.replace(nothing, name="other")])
    assert "**other**: has no learning rate, since depth, whose it takes, diverged at all of its." in lines
    assert "| depth | 3.2500 | diverged |" in page_of(study, Findings([tried], 1, ""), "")
    assert "2 of 2 runs diverged" in answer(study, [ArmResult("depth", "", False, None, False, 3, 2, 2)])


def decision(kind: str, step: int, trigger: str = "slope", outcome: str = "applied") -> Record:
    fields = {"seq_len_tokens": 32, "n_layer": 1, "d_model": 64, "batch_tokens": 512}
    changed = {**fields, "seq_len_tokens": 64} if kind == "raise_seq_len" else {**fields, "n_layer": 4}
    reason = "last call" if trigger == "max_dwell" else trigger
    return {
        "kind": kind,
        "from": fields,
        "to": changed,
        "tokens_seen": 10.0 * step,
        "trigger": trigger,
        "reason": reason,
        "outcome": outcome,
    }


def test_changes_are_told_over_seeds() -> None:
    runs = [
        [decision("raise_seq_len", 10), decision("grow_depth", 50)],
        [decision("raise_seq_len", 10), decision("grow_depth", 60, "max_dwell")],
    ]
    assert changes_of(runs, [(0.0, 1000.0), (0.0, 1000.0)]) == "length 32→64 10% (slope), depth 1→4 50 to 60% (slope, last call)"
    assert changes_of([runs[0], runs[0][:1]], [(0.0, 1000.0), (0.0, 1000.0)]).endswith("depth 1→4 50% (slope, 1 of 2 seeds)")
    assert changes_of([[decision("grow_depth", 50, outcome="refused")]], [(0.0, 1000.0)]) == "depth 1→4 refused 50% (slope)"
    early = [{key: value for key, value in decision("grow_depth", 50, "max_dwell").items() if key != "reason"}]
    assert changes_of([early], [(0.0, 1000.0)]) == "depth 1→4 50% (max_dwell)"
    assert changes_of([[], []], [(0.0, 1000.0), (0.0, 1000.0)]) == ""


def test_what_final_models_are_worth_elsewhere_has_a_table_of_its_own(study: Study) -> None:
    measured = dataclasses.replace(result("depth", (0.1, 0.2)), zeroshot={"text, token perplexity": Spread((50.0, 52.0))})
    page = page_of(study, Findings([measured, result("half", (0.1, 0.2))], 0, ""), "")
    assert "| arm | text, token perplexity |\n| --- | --- |\n| depth | 51 ± 1.414 |\n\n" in page
    assert "Zero-shot" not in page_of(study, Findings([result("half", (0.1,))], 0, ""), "")


def test_the_commits_are_those_of_the_package_where_it_runs_from_a_checkout() -> None:
    folder = {"git_commit": "f" * 40, "git_has_changes": True}  # all that runs of earlier versions recorded
    checkout = folder | {"package_commit": "0123456789", "package_has_changes": False}
    assert commits_of([{"code": folder | {"git_commit": None}}]) == []
    (line,) = commits_of([{"code": folder}])
    assert line.startswith("Commits of the folder that the runs were started in, by number of runs: fffffff (1), 1 of them with changes")
    assert commits_of([{"code": checkout}, {"code": checkout}]) == ["Commits of raystage, by number of runs: 0123456 (2)."]
