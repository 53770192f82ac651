"""A study for real: the command, runs in processes of their own, a stop, a kill, a failure, the page."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raystage.config import ConfigError
from raystage.config.study import Study
from raystage.studies.execute import run_study
from raystage.studies.one_run import ENDED_FILE
from raystage.studies.report import build_study_report
from raystage.studies.runs import StudyRun
from raystage.studies.study_folder import RUN_FILE, StudyFolder
from tests.studies.made_study import NO_PACING, made_study, write_study

COMMAND = [sys.executable, "-c", "from raystage.cli import main; main()", "reproduce"]
SIZES: dict[str, Any] = {"tiny": {"pacing": NO_PACING, "training.duration": "8192 tokens", "validation.every_steps": 4}}
ARMS: dict[str, Any] = {
    "static": {},
    "half": {"budget": "50% tokens", "rate_of": "static"},
    "grown": {"against": ["half", "wild"], "shares": {"depths": ["1/2", 1]}, "set": {"pacing": {"rule": "table", "at": [0.5]}}},
    "wild": {"set": {"training.optimizer": {"kind": "sgd", "weight_decay": 1e30}, "pacing.guard.non_finite": "stop"}},
}
CHANGES: dict[str, Any] = {"learning_rates": [1.0], "seeds": [1], "sizes": SIZES, "arms": ARMS, "reference": ["half", "static"]}
CHANGES["columns"] = ["perplexity", "n_unstable"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return made_study(folder, **CHANGES)


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    path = write_study(folder, **CHANGES)
    return subprocess.Popen([*COMMAND, str(path), "--size", "tiny", *words], cwd=folder, text=True, stdout=-1, stderr=-2)


@pytest.mark.long
def test_stopped_and_gone_on_with_to_its_page(folder: Path, study: Study) -> None:
    home = StudyFolder(study)
    first = start(folder)
    wait_for(lambda: (home.of(StudyRun("static", 1.0, 1)) / "metrics.jsonl").exists(), first)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 1, said
    assert "stopped with a checkpoint" in said
    assert "runs are left; the same command goes on" in said

    second = start(folder)
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert "wild_lr-x1_seed-1: diverged: " in said
    losses = home.losses()
    assert {run.arm for run in losses} == {"static", "half", "grown", "wild"}
    assert [run.arm for run, loss in losses.items() if loss is None] == ["wild"]
    assert home.last_words(StudyRun("wild", 1.0, 1)) in said

    again: list[str] = []
    assert run_study(study, again.append)
    assert again == ["going on with study 'made-tiny': 4 runs have ended"]
    kept = home.of(StudyRun("static", 1.0, 1)) / RUN_FILE
    text = kept.read_text()
    kept.write_text(text.replace("rewarm_steps: 5", "rewarm_steps: 7"))
    with pytest.raises(ConfigError, match=r"was trained with growth\.rewarm_steps=7, now 5 by default; move .*made-tiny away"):
        StudyFolder(study).losses()
    kept.write_text(text)
    report = home.path / "report"
    check_page((report / "made-tiny.md").read_text(), json.loads((report / "made-tiny.json").read_text())["results"])


@pytest.mark.long
def test_what_another_study_has_trained_is_not_trained_again(folder: Path, study: Study) -> None:
    other = made_study(
        folder,
        **{
            **CHANGES,
            "name": "other",
            "arms": {"begin": {}, "half": ARMS["half"] | {"rate_of": "begin"}},
            "baseline": "begin",
            "reference": None,
        },
    )
    said: list[str] = []
    assert run_study(other, said.append)
    assert said == ["going on with study 'other-tiny': 2 runs have ended"]
    theirs, ours = StudyFolder(study), StudyFolder(other)
    assert [ours.losses()[StudyRun(arm, 1.0, 1)] for arm in ("begin", "half")] == [
        theirs.losses()[StudyRun(arm, 1.0, 1)] for arm in ("static", "half")
    ]
    page = build_study_report(other, folder / "out", "raystage reproduce").read_text()
    assert "2 of these 2 runs were trained for made-tiny." in page
    changed = made_study(folder, **{**CHANGES, "name": "other", "sizes": {"tiny": {**SIZES["tiny"], "validation.every_steps": 2}}})
    assert StudyFolder(changed).losses() == {}
    elsewhere = made_study(folder, **{**CHANGES, "name": "other", "sizes": {"tiny": {**SIZES["tiny"], "runtime.threads_per_worker": 3}}})
    assert StudyFolder(elsewhere).losses() == {}, "trained on another kind of device"
    theirs.path.rename(theirs.path.with_name("aside"))
    assert StudyFolder(study).losses() == {}, "put aside, and taken back"
    theirs.path.with_name("aside").rename(theirs.path)
    assert len(StudyFolder(study).losses()) == 4


def check_page(page: str, results: list[dict[str, Any]]) -> None:
    rows = {line.split("**")[1]: line for line in page.splitlines() if line.startswith("| **")}
    by_name = {result["name"]: result for result in results}
    assert f"{sum(by_name['static']['loss']['values']):.4f}" in rows["static"]
    assert "| 100.0% |" in rows["static"]
    assert "| 0.00M |" not in rows["half"]
    assert by_name["half"]["tokens"]["values"] == [4096.0]
    assert 0.5 < by_name["grown"]["share"]["values"][0] < 0.9
    (beside,) = by_name["grown"]["against"]  # of the one that diverged there is nothing to say
    assert beside["name"] == "half"
    assert beside["difference"]["values"] == [by_name["grown"]["loss"]["values"][0] - by_name["half"]["loss"]["values"][0]]
    savings = [by_name[name]["saved"][0] for name in ("grown", "half")]
    assert (
        beside["saved"] is None
        if savings[0]["bound"]
        else beside["saved"]["values"] == pytest.approx([savings[0]["spread"]["values"][0] - savings[1]["spread"]["values"][0]])
    )
    assert "; ends below (" in page or "; ends above (" in page
    assert by_name["static"]["extra"]["perplexity"]["values"] == [pytest.approx(math.exp(by_name["static"]["loss"]["values"][0]))]
    assert list(by_name["wild"]["extra"]) == ["n_unstable"]  # a run that diverged has no final perplexity
    assert "**wild**: 1 of 1 runs diverged; steps with a loss ratio above 1.2: " in page


@pytest.mark.long
def test_a_run_counts_when_its_mark_is_whole_and_all_was_measured(folder: Path, study: Study) -> None:
    home, run = StudyFolder(study), StudyRun("half", 1.0, 1)
    assert run in home.losses()
    measured = made_study(folder, **CHANGES, zeroshot={"texts": [str(folder / "text")]})
    assert run not in StudyFolder(measured).losses()
    (home.of(run) / ENDED_FILE).write_text('{"diverged": nu')
    assert run not in home.losses()


def test_texts_that_are_not_there_are_missed_before_anything_is_trained(folder: Path) -> None:
    with pytest.raises(ConfigError, match="zeroshot: nowhere is no file"):
        run_study(made_study(folder, **CHANGES, zeroshot={"texts": ["nowhere"]}), print)


@pytest.mark.long
def test_the_runs_of_a_study_that_was_killed_end_too(folder: Path, study: Study) -> None:
    longer = {"tiny": {**SIZES["tiny"], "training.duration": "1000000 tokens"}}
    path = write_study(folder, **{**CHANGES, "name": "killed", "sizes": longer})
    process = subprocess.Popen([*COMMAND, str(path), "--size", "tiny"], cwd=folder)
    home = StudyFolder(made_study(folder, **{**CHANGES, "name": "killed", "sizes": longer}))
    run = StudyRun("static", 1.0, 1)
    wait_for(lambda: (home.of(run) / "metrics.jsonl").exists(), process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(f"{home.path}/runs" in words for words in command_lines()):
        assert time.monotonic() < deadline, "a run has outlived its study"
        time.sleep(0.2)
    assert any((home.of(run) / "checkpoints").iterdir())


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[Any]") -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def command_lines() -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                found.append(Path("/proc", name, "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return found


def test_a_report_before_any_run_has_ended(tmp_path: Path) -> None:
    page = build_study_report(made_study(tmp_path), tmp_path / "out", "raystage reproduce").read_text()
    assert "**depth**: not run yet." in page
    assert "**Not complete: " in page
    assert (tmp_path / "out" / "made-tiny.png").stat().st_size > 10_000
