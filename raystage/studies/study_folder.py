"""The folder of a study: run folders, their logs, and which runs have failed by themselves."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from raystage.config import Config, ConfigError, dump, from_tree
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

    def config_of(self, run: StudyRun) -> Config:
        """What a run is trained with."""
        return config_of(self.study, run, str(self.path / _RUNS))

    def losses(self) -> dict[StudyRun, float | None]:
        """Of all runs that have ended: the final validation loss, None where it is not finite or the run failed."""
        failures = self._failures()
        losses: dict[StudyRun, float | None] = {}
        while new := {run: self._loss(run, failures) for run in due_runs(self.study, losses) if self._has_ended(run, failures)}:
            losses |= new  # what has ended tells what else is needed
        return losses

    def loss(self, run: StudyRun) -> float | None:
        """Of one that has ended."""
        return self._loss(run, self._failures())

    def keep_failure(self, run: StudyRun) -> str:
        """Notes that a run ended by trouble of its own, so that it is not tried again; returns what it said last."""
        why = self.last_words(run)
        with (self.path / _FAILURES).open("a") as file:
            file.write(json.dumps({"run": run.name, "why": why, "config": dump(self.config_of(run))}) + "\n")
        return why

    def last_words(self, run: StudyRun) -> str:
        """The last line of its log."""
        said = [line for line in self.log_of(run).read_text(errors="replace").splitlines() if line.strip()]
        return said[-1] if said else "it said nothing"

    def _failures(self) -> dict[str, str]:
        """The configuration of each run that failed, as text."""
        path = self.path / _FAILURES
        lines = path.read_text().splitlines() if path.is_file() else []
        return {record["run"]: record["config"] for record in map(json.loads, lines)}

    def _has_ended(self, run: StudyRun, failures: Mapping[str, str]) -> bool:
        mark = self.of(run) / FINISHED_FILE
        texts = [failures.get(run.name), mark.read_text() if mark.is_file() else None]
        return any(text is not None and is_same(text, self.config_of(run)) for text in texts)

    def _loss(self, run: StudyRun, failures: Mapping[str, str]) -> float | None:
        if run.name in failures and is_same(failures[run.name], self.config_of(run)):
            return None
        loss = RunRecords.load(self.of(run)).val[-1]["val_loss"]
        return None if loss is None else float(loss)


def is_same(text: str, config: Config) -> bool:
    """Whether a file holds this configuration; keys that it does not know yet have their defaults."""
    try:
        return from_tree(yaml.safe_load(text)) == config
    except (ConfigError, yaml.YAMLError):
        return False
