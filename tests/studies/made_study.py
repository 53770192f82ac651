"""A small study on the short run's text, for tests."""

from pathlib import Path
from typing import Any

import yaml

from raystage.config import dump
from raystage.config.study import Study, read_study
from tests.training.made_run import configure

NO_PACING = {"rule": "constant", "lengths": None, "depths": None, "widths": None, "at": None}
TREE: dict[str, Any] = {
    "name": "made",
    "question": "Does it pay?",
    "baseline": "static",
    "learning_rates": [0.5, 1.0],
    "seeds": [1, 2],
    "sizes": {"tiny": {"pacing": NO_PACING, "training.duration": "8192 tokens"}, "large": {"model.d_model": 64, "pacing": NO_PACING}},
    "arms": {
        "static": {},
        "half": {"budget": "50% tokens", "rate_of": "static"},
        "depth": {"says": "one layer at first", "shares": {"depths": ["1/12", 1]}, "set": {"pacing": {"rule": "table", "at": [0.5]}}},
    },
}


def write_study(folder: Path, **changes: Any) -> Path:
    """The study as a file beside its base; `changes`: of its groups, whole."""
    base = folder / "base.yaml"
    base.write_text(dump(configure(folder)))
    path = folder / "study.yaml"
    tree = {**TREE, **changes}
    if isinstance(tree["sizes"], dict):
        tree["sizes"] = {name: {"base": str(base), **size} for name, size in tree["sizes"].items()}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def made_study(folder: Path, size: str = "tiny", **changes: Any) -> Study:
    """The same, read."""
    return read_study(write_study(folder, **changes), size)
