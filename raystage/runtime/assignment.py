"""What the driver sends to every rank. Light to import: Ray Train's controller unpickles it without ever looking inside."""

import dataclasses
from pathlib import Path

from raystage.config import Config


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Plain values and paths, so that it travels."""

    config: Config
    corpus_folder: Path
    run_dir: Path
