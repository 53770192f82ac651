"""Where a run counts as over."""

import shutil
import sys
from pathlib import Path

import pytest

from raystage.config import ConfigError
from raystage.data.progress import no_progress
from raystage.runtime.driver import train
from raystage.runtime.engine import EngineError
from raystage.runtime.local import LocalEngine
from raystage.runtime.run_folder import RunFolder
from raystage.tracking.records import RunRecords
from raystage.training.policy import NO_TIME
from tests.training.made_run import configure


def test_a_run_killed_between_its_last_step_and_its_end_is_brought_to_it(tmp_path: Path) -> None:
    """Its last checkpoint has all steps behind it, but no validation at the end and no word that it has ended."""
    config = configure(tmp_path, ["checkpoint={every_steps: 10, keep_last: 9}", "tracking.mlflow=false"])
    folder, said = tmp_path / "runs" / config.name, list[str]()

    def go() -> RunRecords:
        train(config, lambda: LocalEngine(config.runtime), lambda *_: None, said.append)
        return RunRecords.load(folder)

    whole = go()
    go()
    assert "is complete" in said.pop(), "though another checkpoint is of its last step too"
    (end,) = (folder / "checkpoints").glob("*-end")
    shutil.rmtree(end)
    shutil.rmtree(folder / "model")
    again = go()
    assert said == []
    assert (len(again.ends), again.val[-1]) == (1, {**whole.val[-1], "time_s": again.val[-1]["time_s"], "attempt": 2})
    assert (folder / "model").is_dir()
    assert [path.name[:8] for path in (folder / "checkpoints").glob("*-end")] == [end.name[:8]]
    go()
    assert "is complete" in said[-1]


def test_a_package_that_has_changed_while_the_run_was_trained_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end imports what the beginning does without."""
    config = configure(tmp_path, ["tracking.mlflow=false", "training.duration=3 steps", "pacing={rule: constant}"])
    with monkeypatch.context() as changed:
        changed.setitem(sys.modules, "raystage.runtime.wrap_up", None)
        with pytest.raises(EngineError, match=r"trained to its end, but raystage has been changed meanwhile .*; the same command"):
            train(config, lambda: LocalEngine(config.runtime), no_progress, lambda line: None)
    train(config, lambda: LocalEngine(config.runtime), no_progress, lambda line: None)
    assert (tmp_path / "runs" / config.name / "model").is_dir()


def test_changes_that_may_never_come_are_said_before_training(tmp_path: Path) -> None:
    def interrupted() -> LocalEngine:
        raise KeyboardInterrupt

    said: list[str] = []
    for n_tokens in (1, 10**6):
        keys = [
            "pacing.rule=slope",
            "pacing.at=null",
            "pacing.settle_tokens=0",
            f"pacing.min_dwell_tokens={n_tokens}",
            f"name=d{n_tokens}",
            "training.duration=5000 steps",
        ]
        with pytest.raises(KeyboardInterrupt):
            train(configure(tmp_path, keys), interrupted, no_progress, said.append)
    assert said.count(NO_TIME) == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["name=other", "init_from.path=nowhere"], "init_from.path: nowhere: no safetensors weights"),
        (["seed=7"], "seed=7: run 'small' began with"),
        (
            ["name=other", "runtime.engine=ray", "evaluation={beside_training: true, texts: [nowhere.txt]}"],
            "evaluation: nowhere.txt is no file",
        ),
    ],
)
def test_a_mistake_is_said_before_the_text_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], words: str
) -> None:
    begun = configure(tmp_path)
    RunFolder.of(begun).path.mkdir(parents=True)
    RunFolder.of(begun).accept(begun)
    config = configure(tmp_path, overrides)
    monkeypatch.setattr("raystage.runtime.driver.prepare_corpus", lambda *_: pytest.fail("the text was prepared"))
    with pytest.raises(ConfigError, match=words):
        train(config, lambda: LocalEngine(config.runtime), no_progress, lambda line: None)
