"""The folder of a study: run folders and their logs."""

import dataclasses
import json
from pathlib import Path

from raystage.config import Config
from raystage.config.study import Study
from raystage.studies.one_run import ENDED_FILE
from raystage.studies.runs import StudyRun, config_of, due_runs
from raystage.tracking.records import RunRecords

_RUNS, _LOGS = "runs", "logs"


class StudyFolder:
    """`STORAGE/NAME-SIZE`."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.path = Path(study.base.storage).expanduser().absolute() / study.name
        self.wanted = json.dumps(dataclasses.asdict(study.keys.zeroshot))

    def config_of(self, run: StudyRun) -> Config:
        """What a run is trained with."""
        return config_of(self.study, run, str(self.path / _RUNS))

    def of(self, run: StudyRun) -> Path:
        """Of one run."""
        return self.path / _RUNS / self.config_of(run).name

    def log_of(self, run: StudyRun) -> Path:
        """What its process said."""
        return self.path / _LOGS / f"{self.of(run).name}.log"

    def last_words(self, run: StudyRun) -> str:
        """The last line of its log."""
        said = [line for line in self.log_of(run).read_text(errors="replace").splitlines() if line.strip()]
        return said[-1] if said else "it said nothing"

    def losses(self) -> dict[StudyRun, float | None]:
        """Of all runs that have ended: the final validation loss, None where it diverged."""
        losses: dict[StudyRun, float | None] = {}
        while new := {run: self.loss(run) for run in due_runs(self.study, losses) if self._has_ended(run)}:
            losses |= new  # what has ended tells what else is needed
        return losses

    def loss(self, run: StudyRun) -> float | None:
        """Of one that has ended."""
        if json.loads((self.of(run) / ENDED_FILE).read_text())["diverged"] is not None:
            return None
        loss = RunRecords.load(self.of(run)).val[-1]["val_loss"]
        return None if loss is None else float(loss)

    def _has_ended(self, run: StudyRun) -> bool:
        try:
            mark = json.loads((self.of(run) / ENDED_FILE).read_text())
        except (OSError, ValueError):
            return False
        return mark["diverged"] is not None or mark["measured"] == json.loads(self.wanted)
