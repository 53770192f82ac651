"""Which runs are the same."""

import dataclasses
from pathlib import Path
from typing import Any

from raystage.config import Config, from_tree, to_tree
from raystage.studies.identity import differing_key, digest
from raystage.studies.runs import StudyRun, config_of
from tests.studies.made_study import TREE, made_study

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


def test_a_threshold_that_no_change_waits_for_is_not_told(tmp_path: Path) -> None:
    at_places = config_of(made_study(tmp_path), DEPTH, "here")
    by_slope = changed(at_places, "pacing.rule=slope", "pacing.at=null")
    for key, waits in (("depth", True), ("length", False)):
        other = f"pacing.thresholds.{key}=-0.3"
        assert digest(changed(at_places, other)) == digest(at_places)
        assert differing_key(changed(at_places, other), at_places) is None
        assert (digest(changed(by_slope, other)) != digest(by_slope)) is waits
        assert (differing_key(by_slope, changed(by_slope, other)) is not None) is waits
