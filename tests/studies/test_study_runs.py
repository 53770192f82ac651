"""Which runs a study needs, and what each is given."""

from pathlib import Path

import pytest

from raystage.studies.runs import (
    Losses,
    StudyRun,
    chosen_factor,
    config_of,
    counted_runs,
    due_runs,
    foreseen_runs,
    is_at_edge,
)
from tests.studies.made_study import made_study


def run(arm: str, factor: float, seed: int = 1) -> StudyRun:
    return StudyRun(arm, factor, seed)


TRIED: dict[StudyRun, float | None] = {run("static", 0.5): 3.0, run("static", 1.0): 2.0, run("depth", 0.5): 2.5, run("depth", 1.0): 2.6}


def test_first_every_rate_with_the_first_seed(tmp_path: Path) -> None:
    due = due_runs(made_study(tmp_path), {})
    assert due == [run("static", 0.5), run("static", 1.0), run("depth", 0.5), run("depth", 1.0)]


def test_then_the_best_rate_with_all_seeds_and_arms_that_take_anothers(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    due = due_runs(study, TRIED)
    assert due == [run("half", 1.0), run("static", 1.0, 2), run("half", 1.0, 2), run("depth", 0.5, 2)]
    assert due_runs(study, {**TRIED, **dict.fromkeys(due, 2.0)}) == []


def test_an_arm_begins_its_seeds_when_its_own_rates_are_known(tmp_path: Path) -> None:
    losses = {each: loss for each, loss in TRIED.items() if each.arm == "static"}
    assert due_runs(made_study(tmp_path), losses)[:2] == [run("depth", 0.5), run("depth", 1.0)]
    assert run("static", 1.0, 2) in due_runs(made_study(tmp_path), losses)


def test_a_rate_that_failed_is_not_chosen_and_an_arm_that_always_fails_has_none(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    losses: Losses = {**TRIED, run("static", 1.0): None}
    assert chosen_factor(study, "static", losses) == chosen_factor(study, "half", losses) == 0.5
    losses = {**TRIED, run("depth", 0.5): None, run("depth", 1.0): None}
    assert chosen_factor(study, "depth", losses) is None
    assert all(each.arm != "depth" for each in due_runs(study, losses))


def test_runs_that_diverged_are_counted_and_where_all_trials_did_these(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    losses: Losses = {**TRIED, run("static", 1.0, 2): None}
    assert counted_runs(study, "static", losses) == [run("static", 1.0), run("static", 1.0, 2)]
    losses = {**TRIED, run("depth", 0.5): None, run("depth", 1.0): None}
    assert counted_runs(study, "depth", losses) == [run("depth", 0.5), run("depth", 1.0)]
    assert counted_runs(study, "half", losses) == []


def test_how_many_runs_a_study_takes(tmp_path: Path) -> None:
    assert len(foreseen_runs(made_study(tmp_path))) == 2 * 2 + 2 * 1 + 2  # rates of two arms; their second seeds; the third arm's seeds
    assert len(foreseen_runs(made_study(tmp_path, trial_share=0.5))) == 2 * 2 + 2 * 1 + 3  # the best try of the baseline alone counts


def test_rates_tried_over_a_share_of_the_budget_are_runs_of_their_own_but_for_the_baseline(tmp_path: Path) -> None:
    study = made_study(tmp_path, trial_share=0.25)
    tries = [run("static", 0.5), run("static", 1.0), *(StudyRun("depth", factor, 1, 0.25) for factor in (0.5, 1.0))]
    assert due_runs(study, {}) == tries
    losses: Losses = dict(zip(tries, [3.0, 2.0, 2.5, 2.6], strict=True))
    depth = [run("depth", 0.5, seed) for seed in (1, 2)]
    assert set(due_runs(study, losses)) == {run("static", 1.0, 2), run("half", 1.0), run("half", 1.0, 2), *depth}
    assert counted_runs(study, "depth", losses) == []
    tried, whole = (config_of(study, each, "x") for each in (tries[2], depth[0]))
    assert (tried.training.duration, whole.training.duration) == ("2048 tokens", "8192 tokens")
    assert tried.name.startswith("depth_lr-x0.5_seed-1_share-0.25_")


def test_short_trials_that_all_diverged_stand_for_no_seeds(tmp_path: Path) -> None:
    study = made_study(tmp_path, trial_share=0.25)
    losses: Losses = {StudyRun("depth", factor, 1, 0.25): None for factor in (0.5, 1.0)}
    assert counted_runs(study, "depth", losses) == []
    assert chosen_factor(study, "depth", losses) is None


def test_a_single_rate_is_not_tried(tmp_path: Path) -> None:
    study = made_study(tmp_path, learning_rates=[1.0], trial_share=0.25)
    assert due_runs(study, {})[:2] == [run("static", 1.0), run("depth", 1.0)]


def test_a_best_rate_among_those_tried_is_no_edge(tmp_path: Path) -> None:
    study = made_study(tmp_path, learning_rates=[1.0, 0.5, 2.0])
    assert [is_at_edge(study, factor) for factor in (0.5, 1.0, 2.0)] == [True, False, True]
    assert not is_at_edge(made_study(tmp_path, learning_rates=[1.0]), 1.0)


@pytest.mark.parametrize(
    ("budget", "duration"),
    [
        ("100% tokens", "8192 tokens"),
        ("50% tokens", "4096 tokens"),
        ("50% steps", "16 steps"),
        # 8,192 tokens x (6 (2 layers x 12 x 32^2 + 32 x 320) + 6 x 2 layers x 32 channels x 32 tokens)
        ("50% flops", f"{float(f'{8192 * (6 * (2 * 12 * 32**2 + 32 * 320) + 6 * 2 * 32 * 32):.4g}') / 2:.12g} flops"),
    ],
)
def test_budgets(tmp_path: Path, budget: str, duration: str) -> None:
    arms = {"static": {"budget": budget}}
    config = config_of(made_study(tmp_path, arms=arms), StudyRun("static", 2.0, 5), str(tmp_path))
    assert config.training.duration == duration
    assert (config.training.optimizer.lr, config.seed) == (0.01, 5)


def test_steps_become_tokens_where_an_arm_is_given_tokens(tmp_path: Path) -> None:
    study = made_study(
        tmp_path, sizes={"tiny": {"pacing": {"rule": "constant", "lengths": None, "depths": None, "widths": None, "at": None}}}
    )
    assert config_of(study, run("static", 1.0), "x").training.duration == f"{60 * 256} tokens"
