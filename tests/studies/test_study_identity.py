"""Which runs are the same."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from raystage.config import Config, from_tree, to_tree
from raystage.config.study import read_study
from raystage.studies.identity import differing_key, digest
from raystage.studies.runs import StudyRun, config_of
from tests.studies.made_study import TREE, made_study

ROOT = Path(__file__).parents[2]
STATIC, DEPTH = StudyRun("static", 1.0, 1), StudyRun("depth", 1.0, 1)


def changed(config: Config, *overrides: str) -> Config:
    return from_tree(to_tree(config), overrides)


def test_what_moves_a_figure_is_in_the_name_of_the_run_and_nothing_else(tmp_path: Path) -> None:
    def name(**changes: Any) -> str:
        study = made_study(tmp_path, **changes)
        return config_of(study, STATIC, str(tmp_path)).name

    def sized(**keys: Any) -> dict[str, Any]:
        return {"sizes": {"tiny": {**TREE["sizes"]["tiny"], **keys}}}

    assert name() == name(**sized(**{"runtime.threads_per_worker": 2, "checkpoint.every_steps": 7, "storage": "elsewhere"}))
    others = [sized(**{"training.duration": "4096 tokens"}), sized(**{"validation.rows": 9}), sized(**{"training.batch_tokens": 512})]
    names = [name(), *(name(**changes) for changes in others)]
    assert len(set(names)) == 4
    assert all(each.startswith("static_lr-x1_seed-1_") for each in names)


def test_a_default_that_has_changed_since_is_told_by_its_key(tmp_path: Path) -> None:
    """The digest does not know: it is of what is not as it is by default."""
    config = config_of(made_study(tmp_path), DEPTH, "here")
    assert differing_key(dataclasses.replace(config, name="other", storage="there"), config) is None
    before = dataclasses.replace(config, growth=dataclasses.replace(config.growth, rewarm_steps=7))
    assert differing_key(before, config) == f"growth.rewarm_steps=7, now {config.growth.rewarm_steps}"


@pytest.mark.parametrize(("arm", "name"), [("automatic", "0d0d4ed7"), ("automatic-paper", "2af61efb"), ("static", "a1cbe669")])
def test_published_runs_keep_their_names_whatever_the_defaults_are(arm: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were trained when other thresholds were the default, and are not trained anew."""
    monkeypatch.chdir(ROOT)
    study = read_study(Path("tune_configs", "reproduce", "automatic_wikipedia.yaml"), "small")
    assert config_of(study, StudyRun(arm, 1.0, 1), "runs").name.endswith(f"_{name}")


@pytest.mark.parametrize(
    ("key", "waits_for_depth", "waits_for_length"),
    [("thresholds.depth", True, False), ("thresholds.length", False, True), ("min_tokens_per_parameter", True, False)],
)
def test_what_no_change_waits_for_makes_no_other_run(tmp_path: Path, key: str, waits_for_depth: bool, waits_for_length: bool) -> None:
    at_places = config_of(made_study(tmp_path), DEPTH, "here")
    by_slope = changed(at_places, "pacing.rule=slope", "pacing.at=null")
    of_length = changed(by_slope, "pacing.depths=null", "pacing.lengths=[16,32]")
    value = 3 if "min" in key else -0.3
    for config, matters in ((at_places, False), (by_slope, waits_for_depth), (of_length, waits_for_length)):
        other = changed(config, f"pacing.{key}={value}")
        assert (digest(other) != digest(config)) is matters
        assert (differing_key(config, other) is not None) is matters


def test_the_slope_that_ends_a_run_always_matters(tmp_path: Path) -> None:
    at_places = config_of(made_study(tmp_path), DEPTH, "here")
    assert digest(changed(at_places, "pacing.thresholds.stop=-0.05")) != digest(at_places)
