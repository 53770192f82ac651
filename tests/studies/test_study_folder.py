"""Where the runs of a study are."""

import json
from pathlib import Path
from typing import Any

import pytest

from raystage.config import ConfigError, dump
from raystage.config.study import Study
from raystage.studies import execute
from raystage.studies.one_run import ENDED_FILE
from raystage.studies.runs import StudyRun
from raystage.studies.study_folder import RUN_FILE, StudyFolder
from tests.studies.made_study import TREE, made_study

STATIC, SAME = StudyRun("static", 1.0, 1), StudyRun("same", 1.0, 1)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    arms: dict[str, Any] = {"static": {}, "same": {"says": "the target by another name"}, **TREE["arms"]}
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


def test_a_run_from_before_a_key_was_known_counts_where_that_moves_nothing(tmp_path: Path) -> None:
    arms = {**TREE["arms"], "slope": {"shares": {"depths": ["1/12", 1]}, "set": {"pacing.rule": "slope"}}}
    study = made_study(tmp_path, arms=arms, learning_rates=[1.0], seeds=[1])
    for arm in ("depth", "slope"):
        file = end(StudyFolder(study), StudyRun(arm, 1.0, 1)) / RUN_FILE
        file.write_text(file.read_text().replace("  min_tokens_per_parameter: 20.0\n", ""))
    assert StudyFolder(study).of(StudyRun("depth", 1.0, 1)).is_dir()
    with pytest.raises(ConfigError, match=r"was trained with pacing\.min_tokens_per_parameter=0\.0, now 20\.0 by default"):
        StudyFolder(study).of(StudyRun("slope", 1.0, 1))


def test_what_becomes_due_has_been_trained_elsewhere(study: Study) -> None:
    folder = StudyFolder(study)
    assert folder.losses() == {}
    end(StudyFolder(study), SAME)
    assert folder.losses({StudyRun("half", 1.0, 1): 3.0}) == {STATIC: None, SAME: None, StudyRun("half", 1.0, 1): 3.0}


def test_of_two_arms_that_are_the_same_one_is_trained(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not beside the other either, though two cores are free; and nothing is written into the other's folder."""
    started: list[str] = []

    class Trained:
        """The process of a run that has ended when it is looked at."""

        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            folder = Path(command[3]).parent
            started.append(folder.name.partition("_")[0])
            (folder / ENDED_FILE).write_text(json.dumps({"diverged": None, "measured": json.loads(command[5])}))

        def poll(self) -> int:
            return self.returncode

    monkeypatch.setattr(execute.subprocess, "Popen", Trained)
    monkeypatch.setattr(execute, "slots_of", lambda study: 2)
    monkeypatch.setattr(StudyFolder, "loss", lambda self, run: 3.0)
    assert execute.run_study(study, lambda text: None)
    assert sorted(started) == ["depth", "half", "static"]
    assert set(StudyFolder(study).losses()) == {StudyRun(arm, 1.0, 1) for arm in ("static", "half", "depth", "same")}
