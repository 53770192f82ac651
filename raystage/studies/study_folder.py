"""The folder of a study: run folders and their logs; what another study has trained is not trained again."""

import dataclasses
import json
from collections import defaultdict
from pathlib import Path

from raystage.config import Config, ConfigError, flat, load
from raystage.config.load import parse
from raystage.config.study import Study
from raystage.runtime.run_folder import RunFolder
from raystage.studies.identity import differing_key, digest_in
from raystage.studies.one_run import ENDED_FILE
from raystage.studies.runs import Losses, StudyRun, config_of, due_runs
from raystage.tracking.records import RunRecords

RUN_FILE = "study_run.yaml"  # what the run was started with
_RUNS, _LOGS = "runs", "logs"
# how runs behaved before raystage knew a key whose default does something
_BEFORE = {"pacing.min_tokens_per_parameter": "0"}


class StudyFolder:
    """`STORAGE/NAME-SIZE`, beside those of other studies, whose ended runs are looked at but never written to."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.path = Path(study.base.storage).expanduser().absolute() / study.name
        self.wanted = json.dumps(dataclasses.asdict(study.keys.zeroshot))
        self._ended = self._all_ended()
        self._found: dict[str, Path | None] = {}
        self._same: set[str] = set()

    def config_of(self, run: StudyRun) -> Config:
        """What a run is trained with."""
        return config_of(self.study, run, str(self.path / _RUNS))

    def of(self, run: StudyRun) -> Path:
        """Where it is: its own, or that of another arm or study where that has ended and is the same but for its name.

        Raises ConfigError for one of its own that had other defaults.
        """
        config = self.config_of(run)
        own = self.own(run)
        if not self._has_ended_at(own):
            return self._elsewhere(config) or own
        if config.name not in self._same and (differing := differing_key(_trained_with(own), config)):
            raise ConfigError(f"{own}: was trained with {differing} by default; move {self.path} away, and it is trained anew")
        self._same.add(config.name)
        return own

    def own(self, run: StudyRun) -> Path:
        """The folder that nobody else trains in."""
        return RunFolder.of(self.config_of(run)).path

    def trained_for(self, run: StudyRun) -> str:
        """The study that has trained it, or is to."""
        return self.of(run).parents[1].name

    def _elsewhere(self, config: Config) -> Path | None:
        """Where this has been trained for another arm or study, on the same kind of device."""
        if config.name not in self._found:
            places = self._ended[digest_in(config.name)]
            self._found[config.name] = next((each for each in places if self._has_ended_at(each) and _is_alike(each, config)), None)
        return self._found[config.name]

    def _all_ended(self) -> dict[str, list[Path]]:
        """Runs of all studies by the digest of what moves their figures."""
        found = defaultdict(list)
        for mark in sorted(self.path.parent.glob(f"*/{_RUNS}/*/{ENDED_FILE}")):
            found[digest_in(mark.parent.name)].append(mark.parent)
        return found

    def log_of(self, run: StudyRun) -> Path:
        """What its process said."""
        folder = self.of(run)
        return folder.parents[1] / _LOGS / f"{folder.name}.log"

    def last_words(self, run: StudyRun) -> str:
        """The last line of its log."""
        said = [line for line in self.log_of(run).read_text(errors="replace").splitlines() if line.strip()]
        return said[-1] if said else "it said nothing"

    def losses(self, known: Losses | None = None) -> dict[StudyRun, float | None]:
        """Of all runs that have ended: the final validation loss, None where it diverged. `known`: those of which that is known by now."""
        self._ended, self._found = self._all_ended(), {}
        losses = dict(known or {})
        while new := {run: self.loss(run) for run in due_runs(self.study, losses) if self._has_ended_at(self.of(run))}:
            losses |= new  # what has ended tells what else is needed
        return losses

    def loss(self, run: StudyRun) -> float | None:
        """Of one that has ended."""
        if json.loads((self.of(run) / ENDED_FILE).read_text())["diverged"] is not None:
            return None
        loss = RunRecords.load(self.of(run)).val[-1]["val_loss"]
        return None if loss is None else float(loss)

    def _has_ended_at(self, folder: Path) -> bool:
        try:
            mark = json.loads((folder / ENDED_FILE).read_text())
        except (OSError, ValueError):
            return False
        return mark["diverged"] is not None or mark["measured"] == json.loads(self.wanted)


def _trained_with(folder: Path) -> Config:
    """The configuration of a run, as it was understood then. Raises ConfigError."""
    file = folder / RUN_FILE
    load(file)  # whatever is wrong with it is said in one line
    known = flat(parse(file.read_text(encoding="utf-8"), str(file)))
    return load(file, [f"{key}={value}" for key, value in _BEFORE.items() if key not in known])


def _is_alike(folder: Path, config: Config) -> bool:
    """Whether the run of another arm or study had such a device and such defaults, and lies where it was: what was moved is put aside."""
    try:
        theirs = _trained_with(folder)
    except ConfigError:
        return False
    devices = {(each.runtime.device, each.runtime.threads_per_worker) for each in (theirs, config)}
    return len(devices) == 1 and RunFolder.of(theirs).path == folder and differing_key(theirs, config) is None
