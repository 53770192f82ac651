"""What a report knows of one run: its records, its configuration, its sample."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from raystage.config.errors import ConfigError
from raystage.report.columns import Columns, Metrics
from raystage.report.evaluations import Evaluated, read_evaluations
from raystage.report.read import read_metrics
from raystage.report.samples import Sample, read_samples
from raystage.tracking.records import DECISIONS_FILE, METRICS_FILE, Record, read_records


@dataclasses.dataclass(frozen=True)
class Run:
    name: str
    metrics: Metrics
    decisions: list[Record]
    config_text: str | None
    sample_text: str | None
    samples: list[Sample]
    evaluations: list[Evaluated]

    @property
    def train(self) -> Columns:
        return self.metrics.of["train"]

    @property
    def val(self) -> Columns:
        return self.metrics.of["val"]

    @property
    def checks(self) -> Columns:
        return self.metrics.of["check"]


def named(run_dirs: Sequence[Path]) -> list[tuple[Path, str]]:
    """Run folders with their names; names that repeat get their parent folder's in front. Raises ConfigError for none, or one twice."""
    if not run_dirs:
        raise ConfigError("a report needs at least one run folder, like runs/quickstart")
    folders = [Path(run_dir).resolve() for run_dir in run_dirs]
    if len(set(folders)) < len(folders):
        raise ConfigError("a report got the same run folder twice; name each once")
    names = [folder.name for folder in folders]
    return [(folder, folder.name if names.count(folder.name) == 1 else f"{folder.parent.name}/{folder.name}") for folder in folders]


def load_run(folder: Path, name: str) -> Run:
    """Reads one run folder. Raises ConfigError for a missing, empty or broken one."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such run folder; 'raystage runs' lists them")
    metrics = read_metrics(folder / METRICS_FILE)
    if not len(metrics.of["train"]):
        raise ConfigError(f"{folder}: holds no training steps yet; 'raystage train' with this name writes them")
    decisions = read_records(folder / DECISIONS_FILE)
    return Run(
        name=name,
        metrics=metrics,
        decisions=decisions,
        config_text=_text(folder / "config.yaml"),
        sample_text=_text(folder / "report" / "sample.txt"),
        samples=read_samples(folder / "report"),
        evaluations=read_evaluations(folder),
    )


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
