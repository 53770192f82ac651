"""The space of a search: what it may be, and what is refused before a trial starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from raystage.config import ConfigError
from raystage.config.duration import parse_duration
from raystage.config.search_space import read_space
from raystage.tuning.trial_config import Trial, TrialConfigs, check_space
from tests.tuning.made_search import TREE, made_search


def test_keys_are_dotted_or_nested_alike() -> None:
    flat = read_space({"pacing.lengths": [[8, 32]], "pacing.warmup.fraction": [0.1, 0.2]})
    assert flat == read_space({"pacing": {"lengths": [[8, 32]], "warmup": {"fraction": [0.1, 0.2]}}})
    assert flat.keys == ("pacing.lengths", "pacing.warmup.fraction")
    assert len(list(flat.corners())) == 2


@pytest.mark.parametrize(
    ("tree", "values"),
    [
        ({"low": 0.1, "high": 0.5, "steps": 3}, [0.1, 0.3, 0.5]),
        ({"low": 0.001, "high": 0.1, "steps": 3, "log": True}, [0.001, 0.01, 0.1]),
    ],
)
def test_a_range_is_exact_at_both_ends(tree: dict[str, Any], values: list[float]) -> None:
    (dimension,) = read_space({"training.optimizer.lr": tree}).dimensions
    assert [json.loads(value) for value in dimension.values] == values


def test_a_range_of_a_whole_key_is_of_whole_numbers() -> None:
    steps, whole = read_space(
        {"training.batch_tokens": {"low": 100, "high": 103, "steps": 7}, "pacing.checks_in_a_row": {"low": 1, "high": 3}}
    ).dimensions
    assert steps.values == ("100", "101", "102", "103")
    assert whole.text(2.6) == "3"


def read_and_check(folder: Path, **changes: Any) -> None:
    search, space, base = made_search(folder, **changes)
    check_space(search, space, TrialConfigs(search, base, "trials"))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"pacing.lengths": [[64, 32]]}, "pacing.lengths=.*rising order"),
        ({"pacing.lengths": [[16, 64]]}, "64 is above model.context_length=32"),
        ({"pacing.lengths": []}, "space.pacing.lengths: must be a list of values to try, or a range"),
        ({"pacing.warmup.fraction": {"low": 0.3, "high": 0.3}}, "an empty range, low=0.3 is not below high=0.3"),
        ({"pacing.warmup.fraction": {"low": 0.3}}, "a range needs the numbers low and high"),
        ({"pacing.warmup.fraction": {"low": 0.1, "high": 0.3, "steps": 1}}, "steps=1: must be a whole number at least 2"),
        ({"pacing.warmup.fraction": {"low": 0.1, "high": 0.3, "stepps": 4}}, "stepps: no such key; a range has low, high, steps and log"),
        (
            {"pacing.warmup.fraction": {"low": 0.1, "high": 1.5, "steps": 3}},
            "pacing.warmup.fraction=1.5: must be a number above 0 and below 1",
        ),
        ({"pacing.warmpu.fraction": [0.1]}, "pacing.warmpu: no such key; did you mean pacing.warmup"),
        ({"pacing.lengths": [[8, 32], [8, 32]]}, "gives a value twice"),
        ({"seed": [1, 2]}, "space.seed: is no key to search"),
        ({"runtime.workers": [1, 2]}, "space.runtime.workers: is no key to search"),
        ({"training.duration": ["1 steps", "2 steps"]}, "space.training.duration: is no key to search"),
        ({}, "space: must be a mapping of keys to values to try"),
        (None, "space: must be a mapping of keys to values to try"),
        ({"training.optimizer.lr": {"low": 0.1, "high": 0.2, "steps": 20000}}, "20,000 points, more than 10,000"),
    ],
)
def test_an_impossible_space_is_refused_in_a_line(tmp_path: Path, space: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read_and_check(tmp_path, space=space, strategy={"kind": "grid"})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": {"kind": "lightweight", "horizon": "3 apples"}}, "strategy.horizon='3 apples': must be so many warmups"),
        ({"strategy": {"kind": "lightweight", "horizon": "120%"}}, "strategy.horizon='120%': must be"),
        ({"strategy": {"kind": "lightweight", "seeds": [1, 1]}}, "strategy.seeds=.*twice"),
        ({"objective": {"kind": "time_to_loss"}}, "objective.loss=null: objective.kind=time_to_loss needs"),
        ({"objective": {"loss": 3.0}}, "only objective.kind=time_to_loss uses it"),
        ({"objective": {"per": "seconds"}}, "objective.per=seconds: training.duration='40 steps' of the base does not say how much"),
        (
            {"space": {**TREE["space"], "training.optimizer.lr": [0.1]}},
            "lightweight searches pacing.lengths and pacing.warmup.fraction, and",
        ),
        ({"overrides": {"pacing": {"depths": None, "widths": None, "at": None, "rule": "discrete"}}}, "pacing.at|lightweight needs linear"),
        ({"overrides": ["a=b"]}, "overrides: must be a mapping of keys of the base to values"),
        (
            {"strategy": {"kind": "grid"}, "space": {"training.optimizer.lr": {"low": 0.1, "high": 0.2}}},
            "kind=grid takes points one by one",
        ),
        ({"nonsense": 1}, "nonsense: no such key; 'raystage tune --help' lists every key"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_a_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read_and_check(tmp_path, **changes)
    assert "\n" not in str(raised.value)


def test_trials_are_given_alike_and_stop_at_the_horizon(tmp_path: Path) -> None:
    search, space, base = made_search(tmp_path)
    configs = TrialConfigs(search, base, "here")
    point = next(iter(space.corners()))
    config = configs.of(Trial.of(point, 7))
    assert config.training.duration.endswith("flops"), "equal compute"
    assert (config.training.stop_at, config.validation.every_steps, config.seed) == ("20 steps", 2, 7)
    assert config.storage == "here"
    grid, _, _ = made_search(tmp_path, strategy={"kind": "grid", "horizon": "20 steps"})
    stop_at = TrialConfigs(grid, base, "here").of(Trial.of(point, 7)).training.stop_at
    assert stop_at is not None
    assert parse_duration(stop_at).unit == "flops", "at equal compute"
    assert parse_duration(stop_at).amount == pytest.approx(parse_duration(config.training.duration).amount / 2, rel=1e-3)
    chosen = configs.chosen(point)
    assert (chosen.training.stop_at, chosen.name, chosen.validation.every_steps) == (None, "made-best", base.validation.every_steps)
    assert chosen.pacing.lengths == (8, 32)


def test_the_same_trial_has_the_same_name_and_others_another(tmp_path: Path) -> None:
    _, space, _ = made_search(tmp_path)
    trials = [Trial.of(point, seed) for point in space.corners() for seed in (0, 1)]
    assert len({trial.name for trial in trials}) == 12
    assert [Trial.from_json(trial.to_json()) for trial in trials] == trials
    alike = ["-0.5", "0.5", "1e16", "1e-16", '"a b"', '"a-b"', "[8, -1]", "[8, 1]", "[-8, 1]"]
    assert len({Trial.of((("pacing.x", value),), 0).name for value in alike}) == len(alike)
    long = ((f"pacing.{'x' * 200}", "1"),)
    assert Trial.of(long, 0).name != Trial.of(long, 1).name
    assert len(Trial.of(long, 0).name) <= 100


def test_trials_lie_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trials of a search lie in a folder that all nodes share"):
        made_search(tmp_path, "storage=s3://bucket/runs")
