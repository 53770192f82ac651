"""The command that runs a study; nothing else."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from raystage.config.reference import key_lines, key_list
from raystage.config.study import ArmKeys, StudyKeys, read_study
from raystage.terminal import fail, say, terminal

KEYS = key_list(
    StudyKeys,
    "sizes.NAME.base  configuration that all runs of a size begin from; the other keys of sizes.NAME change it",
    *key_lines(ArmKeys, "arms.NAME."),
    "arms.NAME.set  keys of a run that the arm changes, like pacing.rule=linear",
)
_PRESETS = Path("tune_configs/reproduce")


def reproduce(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file, or the name of one in tune_configs/reproduce/, like growth")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="like seeds=[1,2] or sizes.small.training.batch_tokens=8192")
    ] = None,
    size: Annotated[str, typer.Option(help="one of the file's sizes")] = "small",
    out: Annotated[Path | None, typer.Option(help="folder for the page, the picture and the numbers; default: the study's report")] = None,
    only_report: Annotated[bool, typer.Option("--only-report", help="of the runs that have ended; train nothing")] = False,
) -> None:
    """Run a study, or go on with it: every arm at its best learning rate with several seeds; then a page, a picture, the numbers."""
    path = study if study.suffix else _PRESETS / f"{study}.yaml"
    wanted = read_study(path, size, overrides or ())
    from raystage.runtime.driver import prepare_corpus
    from raystage.studies.execute import run_study
    from raystage.studies.report import build_study_report
    from raystage.studies.study_folder import StudyFolder
    from raystage.tracking.progress_bars import progress_bars

    finished = True
    if not only_report:
        with progress_bars(terminal) as progress:
            prepare_corpus(wanted.base, progress, say)
        finished = run_study(wanted, say)
    command = shlex.join(["raystage", "reproduce", str(study), *(overrides or ()), "--size", size])
    say(f"report: {build_study_report(wanted, out or StudyFolder(wanted).path / 'report', command)}")
    if not finished:
        fail("runs are left; the same command goes on", 1)
