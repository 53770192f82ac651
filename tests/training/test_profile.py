"""--profile: a table and a trace of some steps of each stage, and the same run."""

import json
from pathlib import Path

from tests.training.made_run import configure, losses, train_here


def test_steps_of_each_stage_are_profiled_and_the_run_is_the_same(tmp_path: Path) -> None:
    alone = train_here(configure(tmp_path, ["name=alone"]))
    records = train_here(configure(tmp_path, ["name=profiled", "runtime.profile_steps=3"]))
    assert losses(records) == losses(alone)
    folder = tmp_path / "runs" / "profiled" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == [f"stage-{n}.{kind}" for n in range(4) for kind in ("json", "txt")]
    for stage in range(4):
        text = (folder / f"stage-{stage}.txt").read_text()
        assert text.startswith(f"3 steps of stage {stage}\n")
        names = [event.get("name") for event in json.loads((folder / f"stage-{stage}.json").read_text())["traceEvents"]]
        assert [names.count(name) for name in ("forward", "backward", "update")] == [6, 6, 3], "two micro-batches a step"


def test_a_run_that_ends_while_it_is_profiled_leaves_a_table_too(tmp_path: Path) -> None:
    one_stage = [f"pacing.{kind}=null" for kind in ("lengths", "depths", "widths", "at")]
    train_here(
        configure(tmp_path, ["name=short", *one_stage, "pacing.rule=constant", "training.duration=7 steps", "runtime.profile_steps=30"])
    )
    assert (tmp_path / "runs" / "short" / "profile" / "stage-0.txt").read_text().startswith("4 steps of stage 0\n")
