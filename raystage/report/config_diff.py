"""What the configurations of several runs differ in."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

_NOT_COMPARED = ("name", "storage", "storage_cache")  # where a run is, not what


def differing_keys(config_texts: Sequence[str | None]) -> list[tuple[str, list[str]]]:
    """Dotted key and its value in each run, in the order of the first; none for one run, or where a configuration is missing or no YAML."""
    texts = [text for text in config_texts if text is not None]
    if len(texts) < 2 or len(texts) < len(config_texts):
        return []
    try:
        trees = [dict(_flat(yaml.safe_load(text))) for text in texts]
    except yaml.YAMLError:
        return []
    keys = dict.fromkeys(key for tree in trees for key in tree if key not in _NOT_COMPARED)
    rows = [(key, [tree.get(key, "") for tree in trees]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(tree, dict) and tree:
        return [leaf for key, value in tree.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, tree if isinstance(tree, str) else json.dumps(tree, default=str))]
