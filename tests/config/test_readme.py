"""The configuration that the README shows loads, and so does each of the other ways to pace on top of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from raystage.config import from_tree
from raystage.config.load import as_overrides
from raystage.config.parse import parse

README = (Path(__file__).parents[2] / "README.md").read_text()
EXAMPLE: dict[str, Any] = parse(README.split("```yaml")[1].split("```")[0], "README.md")
ROWS = README.split("Other ways to pace")[1].split("## ")[0].splitlines()[4:]
WAYS = [way for row in ROWS if row.startswith("|") for way in row.split(" | ")[1].split(";")]


def test_there_are_ways_to_pace() -> None:
    assert len(WAYS) > 6


@pytest.mark.parametrize("way", WAYS)
def test_what_the_readme_says_loads(way: str) -> None:
    keys: dict[str, Any] = {}
    for span in re.findall(r"`([^`]+: [^`]+)`", way):
        key, value = next(iter(parse(span, "README.md").items()))
        keys[key if key.startswith("training.") else f"pacing.{key}"] = value
    assert keys
    from_tree(EXAMPLE, list(as_overrides(keys)))
