"""Every key with what it means, as a table and as a commented YAML file.

`python -m raystage.config.reference > tune_configs/reference.yaml` writes the file anew after a change of the schema.
"""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import yaml

from raystage.config.keys import Key, keys
from raystage.config.schema import Config

_HEADER = """\
# Every key of raystage. The values are the defaults, so this file changes nothing as it is: copy the keys you need.
# A unit stands in [brackets]. Any key can be set on the command line too: raystage train FILE training.batch_tokens=16384
# Made from the schema by: python -m raystage.config.reference > tune_configs/reference.yaml

"""


def key_table(root: type[Any] = Config) -> list[tuple[str, str, str, str]]:
    """Each key that holds a value: its dotted name, what is allowed, the default as YAML, the description with its [unit]."""
    return [(key.name, key.allowed, default_text(key), key.description) for key in keys(root) if not key.is_group]


def key_list(root: type[Any], *more: str) -> str:
    """What the help of a command says of its keys, a paragraph each; `more`: paragraphs after them."""
    return "\n\n".join(["Keys:", *key_lines(root), *more])


def key_lines(root: type[Any], prefix: str = "") -> list[str]:
    """These paragraphs; `prefix`: where the keys stand in a larger tree."""
    return [f"{prefix}{key}  ({allowed}; default {default})  {text}" for key, allowed, default, text in key_table(root)]


def reference_yaml() -> str:
    """A YAML file of every key at its default, each under a comment; it loads as `Config()`."""
    pairs = itertools.pairwise((None, *keys()))
    return _HEADER + "\n".join(line for previous, key in pairs if key for line in _lines(key, previous)) + "\n"


def default_text(key: Key) -> str:
    """The default as YAML writes it on one line."""
    return yaml.safe_dump(key.default, default_flow_style=True, width=sys.maxsize).removesuffix("\n").removesuffix("\n...")


def _lines(key: Key, previous: Key | None) -> Iterator[str]:
    *parents, leaf = key.name.split(".")
    indent = "  " * len(parents)
    if key.is_group:
        yield f"{indent}# {key.description}" if parents else f"\n# {key.description}"
        yield f"{indent}{leaf}:"
        return
    starts_entry = previous is not None and previous.is_group and parents[-1:] == ["0"]
    yield f"{indent}# {key.description} ({key.allowed}; default {default_text(key)})"
    yield f"{indent[:-2]}- {leaf}: {default_text(key)}" if starts_entry else f"{indent}{leaf}: {default_text(key)}"


if __name__ == "__main__":
    sys.stdout.write(reference_yaml())
