"""What the finished model wrote: `report/samples.json`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from raystage.config.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Sample:
    """`settings`: `greedy`, or `temperature 0.7, top-p 0.9`, with the seed."""

    prompt: str
    settings: str
    text: str


def read_samples(folder: Path) -> list[Sample]:
    """Those of a report's folder; none where it has none. Raises ConfigError for a file that is none of ours."""
    path = folder / "samples.json"
    if not path.is_file():
        return []
    try:
        return [Sample(sample["prompt"], _settings(sample), sample["text"]) for sample in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: holds no samples; delete it, the page then leaves them out") from None


def _settings(sample: dict[str, Any]) -> str:
    if sample["temperature"] == 0:
        return "greedy"
    parts = [f"temperature {sample['temperature']:g}"]
    if sample["top_k"]:
        parts.append(f"top-k {sample['top_k']}")
    if sample["top_p"] < 1:
        parts.append(f"top-p {sample['top_p']:g}")
    return ", ".join([*parts, f"seed {sample['seed']}"])
