"""What `raystage evaluate` has measured of a run's checkpoints: one table, a line a checkpoint and a column a figure."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from raystage.report.cited import Cited

_FOLDER = "evaluations"


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """One checkpoint; `figures` by `name, figure`, like `lambada-test, accuracy`."""

    checkpoint: str
    step: int
    figures: Mapping[str, Cited]


def read_evaluations(run_dir: Path) -> list[Evaluated]:
    """In the order of training."""
    found: dict[str, Evaluated] = {}
    for path in sorted((run_dir / _FOLDER).glob("*.json")):
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            checkpoint, step = tree["model"]["checkpoint"], int(tree["model"]["step"])
            figures = {_column(key): _cited(key, value, step, path) for key, value in tree["metrics"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # people put other files beside them
        before = found[checkpoint].figures if checkpoint in found else {}
        found[checkpoint] = Evaluated(checkpoint, step, {**before, **figures})
    return sorted(found.values(), key=lambda each: each.step)


def columns_of(evaluations: list[Evaluated]) -> list[str]:
    """Every figure that any checkpoint has, in the order met."""
    return list(dict.fromkeys(column for each in evaluations for column in each.figures))


def _cited(key: str, value: float, step: int, path: Path) -> Cited:
    return Cited(value, "evaluation", key, (step,), file=f"{_FOLDER}/{path.name}")


def _column(key: str) -> str:
    """`eval/lambada-test/accuracy` as `lambada-test, accuracy`."""
    _, name, figure = key.split("/")
    return f"{name}, {figure.replace('_', ' ')}"
