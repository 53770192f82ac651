"""Where a run counts as over."""

import shutil
from pathlib import Path

from raystage.runtime.driver import train
from raystage.runtime.local import LocalEngine
from raystage.tracking.records import RunRecords
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
