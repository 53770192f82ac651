"""A small search on the short run's text, for tests."""

from pathlib import Path
from typing import Any

import yaml

from raystage.config import Config, dump
from raystage.config.search import Search, read_search
from raystage.config.search_space import Space
from tests.training.made_run import configure

TREE: dict[str, Any] = {
    "name": "made",
    "overrides": {"pacing": {"rule": "linear", "depths": None, "widths": None, "at": None}, "training.duration": "40 steps"},
    "space": {"pacing.lengths": [[8, 32], [16, 32]], "pacing.warmup.fraction": {"low": 0.2, "high": 0.8, "steps": 3}},
    "strategy": {"kind": "lightweight", "horizon": "20 steps"},
}


def write_search(folder: Path, *overrides: str, **changes: Any) -> Path:
    """The search as a file beside its base; `changes`: of its groups, whole; `overrides`: of the base."""
    base = folder / "base.yaml"
    base.write_text(dump(configure(folder, overrides)))
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({**TREE, "base": str(base), **changes}, sort_keys=False))
    return path


def made_search(folder: Path, *overrides: str, **changes: Any) -> tuple[Search, Space, Config]:
    """The same, read."""
    return read_search(write_search(folder, *overrides, **changes))
