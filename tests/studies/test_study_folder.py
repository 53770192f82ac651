"""Where the runs of a study are."""

import json
from pathlib import Path
from typing import Any

import pytest

from raystage.config import dump
from raystage.config.study import Study
from raystage.studies.one_run import ENDED_FILE
from raystage.studies.runs import StudyRun
from raystage.studies.study_folder import RUN_FILE, StudyFolder
from tests.studies.made_study import TREE, made_study

STATIC, SAME = StudyRun("static", 1.0, 1), StudyRun("same", 1.0, 1)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    arms: dict[str, Any] = {**TREE["arms"], "same": {"says": "the target by another name"}}
    return made_study(tmp_path, arms=arms, learning_rates=[1.0], seeds=[1])


def end(folder: StudyFolder, run: StudyRun) -> Path:
    """As if it had been trained."""
    path = folder.of(run)
    path.mkdir(parents=True)
    (path / RUN_FILE).write_text(dump(folder.config_of(run)))
    (path / ENDED_FILE).write_text(json.dumps({"diverged": "no loss", "measured": {}}))
    return path


def test_what_one_arm_has_trained_another_does_not_train_again(study: Study) -> None:
    trained = end(StudyFolder(study), STATIC)
    assert StudyFolder(study).of(SAME) == StudyFolder(study).of(STATIC) == trained
    assert StudyFolder(study).losses() == {STATIC: None, SAME: None}
    assert StudyFolder(study).of(StudyRun("depth", 1.0, 1)) != trained


def test_an_arm_that_has_trained_its_own_keeps_it(study: Study) -> None:
    folder = StudyFolder(study)
    own = [end(folder, run) for run in (STATIC, SAME)]
    assert [StudyFolder(study).of(run) for run in (STATIC, SAME)] == own
    assert own[0] != own[1]
