"""YAML file + dotted overrides -> Config. Every mistake is one line: the key, the value, what is allowed."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from raystage.config.checks import check
from raystage.config.errors import ConfigError
from raystage.config.keys import Key, keys
from raystage.config.names import shortened
from raystage.config.no_secrets import check_no_secrets
from raystage.config.parse import parse, plain
from raystage.config.redact import redacted
from raystage.config.schema import Config

# what other libraries call a key
_OTHER_NAMES = {
    **dict.fromkeys(("learning_rate", "max_lr", "peak_lr"), "lr"),
    **dict.fromkeys(("n_embd", "hidden_size"), "d_model"),
    **dict.fromkeys(("num_layers", "num_hidden_layers"), "n_layer"),
    **dict.fromkeys(("num_heads", "num_attention_heads"), "n_head"),
    **dict.fromkeys(("block_size", "seq_len", "max_seq_len"), "context_length"),
    **dict.fromkeys(("batch_size", "global_batch_size"), "batch_tokens"),
    **dict.fromkeys(("steps", "max_steps", "epochs"), "duration"),
}
_CHOICES = ("kind", "family", "action")  # of a group, what a value in its place was meant for
_LISTS_OF_MAPPINGS = ("sources", "validation_sources")

Root = TypeVar("Root")


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The validated configuration of the YAML file at `path` with `key.sub=value` overrides. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a YAML file, tune_configs/ has some") from None
    tree = parse(text, str(path))
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path}: holds {_show(tree)}, must be a mapping of keys to values")
    for key, words in {"arms": "a study: raystage reproduce", "space": "a search: raystage tune"}.items():
        if key in (tree or {}):
            raise ConfigError(f"{path}: is the file of {words} {path}")
    return from_tree(tree or {}, overrides)


def from_tree(tree: Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """The validated configuration of a nested mapping with `key.sub=value` overrides. Raises ConfigError."""
    config = validated(Config, tree, overrides, help_command="raystage train --help")
    check(config)
    check_no_secrets(flat(to_tree(config)))
    return config


def validated(root: type[Root], tree: Mapping[str, Any], overrides: Iterable[str], help_command: str) -> Root:
    """A configuration class filled from a nested mapping with overrides, each key by itself checked. Raises ConfigError."""
    merged = applied(tree, overrides)
    try:
        # Strict, so that true is no 1 and "8" no 8; from JSON, where a list may still stand for a tuple.
        return pydantic.TypeAdapter(root).validate_json(json.dumps(merged), strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(_one_line(error, root, help_command)) from None


def applied(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of a nested mapping with `key.sub=value` overrides. Raises ConfigError."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"configuration: holds {_show(tree)}, must be a mapping of keys to values")
    merged: dict[str, Any] = plain(tree, "configuration")
    for override in overrides:
        _apply(merged, override)
    nested: dict[str, Any] = plain(merged, "configuration")  # overrides nest too
    return nested


def as_overrides(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A mapping of keys, dotted or nested, as `key=value` overrides."""
    for leaf, value in tree.items():
        if isinstance(value, Mapping):
            yield from as_overrides(value, f"{prefix}{leaf}.")
        else:
            yield f"{prefix}{leaf}={json.dumps(value)}"


def to_tree(config: Any) -> dict[str, Any]:
    """The configuration as plain nested mappings and lists, as YAML and JSON write them."""
    return _lists(dataclasses.asdict(config))


def dump(config: Config) -> str:
    """The configuration as the YAML text that `load` reads back."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists are values, except lists of mappings."""
    if isinstance(tree, Mapping):
        items: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        items = enumerate(tree)
    else:
        return {prefix: tree}
    return {k: v for key, value in items for k, v in flat(value, f"{prefix}.{key}" if prefix else str(key)).items()}


def unknown_key(key: str, known: Iterable[str], help_command: str = "raystage train --help") -> str:
    """One line for a key that does not exist, with the nearest that does."""
    near = _nearest(_pattern(key), list(known))
    hint = f"did you mean {near}?" if near else f"'{help_command}' lists every key"
    return f"{_cut(key)}: no such key; {hint}"


def _nearest(key: str, known: list[str]) -> str | None:
    """The key of that last part, of the same group if there is one; else the one that is spelled most alike."""
    group, leaf = key.partition(".")[0], key.rpartition(".")[2]
    same_leaf = [name for name in known if name.rpartition(".")[2] == _OTHER_NAMES.get(leaf, leaf)]
    same_group = [name for name in same_leaf if name.partition(".")[0] == group]
    others = [name for name in known if not key.startswith(f"{name}.")]  # not the group that was named rightly
    return next(iter([*same_group, *same_leaf, *difflib.get_close_matches(key, others, n=1, cutoff=0.6)]), None)


def known_keys(root: type[Any] = Config) -> list[str]:
    """Every dotted key, leaves and the groups above them."""
    names = [key.name for key in keys(root)]
    return [*names, *(name.replace("data.sources.0", "data.validation_sources.0") for name in names if name.startswith("data.sources.0."))]


def _lists(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _lists(value) for key, value in tree.items()}
    return [_lists(value) for value in tree] if isinstance(tree, list | tuple) else tree


def _apply(tree: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{override!r}: an override is key.sub=value, like training.batch_tokens=8192")
    *parents, last = key.strip().split(".")
    node = tree
    for part in parents:
        node = _child(node, part, key)
    if isinstance(node, list):
        node[_index(node, last, key)] = parse(text, key)
    else:
        node[last] = parse(text, key)


def _child(node: Any, part: str, key: str) -> Any:
    child = node[_index(node, part, key)] if isinstance(node, list) else node.get(part)
    if child is None and isinstance(node, dict):
        # data.sources.0.path=... on a file that leaves the list to its default
        child = node[part] = [{}] if part in _LISTS_OF_MAPPINGS else {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"{key}: {part!r} holds the value {_show(child)} and has no keys below it")
    return child


def _index(node: list[Any], part: str, key: str) -> int:
    if not (part.isascii() and part.isdecimal() and len(part) < 10 and int(part) < len(node)):
        positions = f"positions are 0 to {len(node) - 1}" if node else "it is empty; give the whole list"
        raise ConfigError(f"{key}: {part!r} is no position in the list; {positions}")
    return int(part)


def _one_line(error: pydantic.ValidationError, root: type[Any], help_command: str) -> str:
    errors = [(_path(each["loc"]), each) for each in error.errors()]
    # where a value may be of several kinds each of them complains: the one that got furthest knows best
    path, first = max((each for each in errors if each[0][: len(errors[0][0])] == errors[0][0]), key=lambda each: len(each[0]))
    key = ".".join(path)
    if first["type"] == "unexpected_keyword_argument":
        return unknown_key(key, known_keys(root), help_command)
    above = ".".join(path[:-1])
    if not _allowed(key, keys(root)) and (allowed := _allowed(above, keys(root))):
        return f"{_cut(above)}: {allowed}"  # a mapping that may stand in place of a value
    return f"{_cut(key)}={_show(first['input'])}: {_allowed(key, keys(root)) or first['msg']}{_example(key, keys(root))}"


def _example(group: str, schema_keys: tuple[Key, ...]) -> str:
    """For a value where a group stands: the key below it that such a value may be of."""
    found = [known for known in schema_keys for leaf in _CHOICES if known.name == f"{group}.{leaf}"]
    return f", like {found[0].name}={found[0].default}" if found else ""


def _path(place: tuple[int | str, ...]) -> list[str]:
    """The parts of a key; pydantic puts the kind of value that it tried, like literal['free'], between them."""
    return [
        str(part)
        for part in place
        if not (isinstance(part, str) and part.startswith(("literal[", "tuple[", "constrained-int", "WorkerRange")))
    ]


def _allowed(key: str, schema_keys: tuple[Key, ...]) -> str | None:
    """What the schema allows at `key`, which may be an entry of a list."""
    pattern = _pattern(key).replace("data.validation_sources.0.", "data.sources.0.")
    by_name = {known.name: known.allowed for known in schema_keys}
    by_name |= {f"{known.name}.0": known.entry_allowed for known in schema_keys if known.entry_allowed}
    return f"must be {by_name[pattern]}" if pattern in by_name else None


def _pattern(key: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".0", key)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "a list"
    return _cut(repr(value) if isinstance(value, str | list) else json.dumps(value))


def _cut(text: str) -> str:
    return shortened(redacted(text))  # in this order: a part of a secret could not be told from other text
