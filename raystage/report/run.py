"""What a report knows of one run: its records, its configuration, its sample."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from raystage.config.errors import ConfigError
from raystage.tracking.records import RunRecords


@dataclasses.dataclass(frozen=True)
class Run:
    name: str
    records: RunRecords
    config_text: str | None
    sample_text: str | None


def load_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """Reads run folders; names that repeat get their parent folder's in front. Raises ConfigError for a missing or empty one."""
    if not run_dirs:
        raise ConfigError("a report needs at least one run folder, like runs/quickstart")
    folders = [Path(run_dir).resolve() for run_dir in run_dirs]
    if len(set(folders)) < len(folders):
        raise ConfigError("a report got the same run folder twice; name each once")
    names = [folder.name for folder in folders]
    return [_load(folder, folder.name if names.count(folder.name) == 1 else f"{folder.parent.name}/{folder.name}") for folder in folders]


def _load(folder: Path, name: str) -> Run:
    records = RunRecords.load(folder)
    if not records.train:
        raise ConfigError(f"{folder}: holds no training steps yet; 'raystage train' with this name writes them")
    return Run(name, records, _text(folder / "config.yaml"), _text(folder / "report" / "sample.txt"))


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
