"""The folder of a study: run folders, their logs, and which runs have failed by themselves."""

import json
from pathlib import Path

from raystage.config import dump
from raystage.config.study import Study
from raystage.studies.one_run import FINISHED_FILE
from raystage.studies.runs import StudyRun, config_of, due_runs
from raystage.tracking.records import RunRecords

_RUNS, _LOGS, _FAILURES = "runs", "logs", "failures.jsonl"


class StudyFolder:
    """`STORAGE/NAME-SIZE`."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.path = Path(study.base.storage).expanduser().absolute() / study.name

    def of(self, run: StudyRun) -> Path:
        """Of one run."""
        return self.path / _RUNS / run.name

    def log_of(self, run: StudyRun) -> Path:
        """What its process said."""
        return self.path / _LOGS / f"{run.name}.log"

    def text_of(self, run: StudyRun) -> str:
        """The configuration of a run, as its file has it."""
        return dump(config_of(self.study, run, str(self.path / _RUNS)))

    def losses(self) -> dict[StudyRun, float | None]:
        """Of all runs that have ended: the final validation loss, None where it is not finite or the run failed."""
        failed = self._failed()
        losses: dict[StudyRun, float | None] = {}
        while new := {run: self._loss(run, failed) for run in due_runs(self.study, losses) if self._has_ended(run, failed)}:
            losses |= new  # what has ended tells what else is needed
        return losses

    def loss(self, run: StudyRun) -> float | None:
        """Of one that has ended."""
        return self._loss(run, self._failed())

    def keep_failure(self, run: StudyRun) -> str:
        """Notes that a run ended by trouble of its own, so that it is not tried again; returns what it said last."""
        why = self.last_words(run)
        with (self.path / _FAILURES).open("a") as file:
            file.write(json.dumps({"run": run.name, "why": why, "config": self.text_of(run)}) + "\n")
        return why

    def last_words(self, run: StudyRun) -> str:
        """The last line of its log."""
        said = [line for line in self.log_of(run).read_text(errors="replace").splitlines() if line.strip()]
        return said[-1] if said else "it said nothing"

    def _failed(self) -> set[tuple[str, str]]:
        path = self.path / _FAILURES
        lines = path.read_text().splitlines() if path.is_file() else []
        return {(record["run"], record["config"]) for record in map(json.loads, lines)}

    def _has_ended(self, run: StudyRun, failed: set[tuple[str, str]]) -> bool:
        mark, text = self.of(run) / FINISHED_FILE, self.text_of(run)
        return (run.name, text) in failed or (mark.is_file() and mark.read_text() == text)

    def _loss(self, run: StudyRun, failed: set[tuple[str, str]]) -> float | None:
        if (run.name, self.text_of(run)) in failed:
            return None
        loss = RunRecords.load(self.of(run)).val[-1]["val_loss"]
        return None if loss is None else float(loss)
