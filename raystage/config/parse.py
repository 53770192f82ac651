"""YAML text -> plain values: mappings with text keys, lists, text, numbers, booleans and null. Nothing else comes out."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from raystage.config.errors import ConfigError

_MAX_DEPTH = 32  # levels; the schema has four
_MAX_VALUES = 100_000  # after aliases are expanded
_MAX_EXACT_FLOAT = 2**53


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with repairs: `1e-3` is a number, `2024-01-01` and `1:30` are text, tags and a key given twice are errors."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(
                None, None, f"a tag ({event.tag}) has no meaning here; write the value alone", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, key_node.value) if isinstance(key_node, yaml.ScalarNode) else id(key_node)
            if key in seen:
                raise ConfigError(f"{key_node.value}: given twice (line {key_node.start_mark.line + 1}); keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.rsplit(":", 1)[-1] in ("null", "bool", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*(_[0-9]+)*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?([0-9]+(_[0-9]+)*\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"  # 1.5, .5, 1.e-3
        r"|^[-+]?[0-9]+(_[0-9]+)*[eE][-+]?[0-9]+$"  # 1e-3
        r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def parse(text: str, where: str) -> Any:
    """The value that the YAML `text` holds; `where` (a path or key) begins the message of the ConfigError it raises."""
    try:
        tree = yaml.load(text, Loader=_Loader)  # nosec B506  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ConfigError(f"{where}: not YAML{line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deep, at most {_MAX_DEPTH} levels") from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: not YAML: {str(error).partition(';')[0]}") from None
    return plain(tree, where)


def plain(tree: Any, where: str) -> Any:
    """A copy of `tree` made of dicts, lists and scalars alone; whole floats become ints. Raises ConfigError at anything else."""
    for count, _ in enumerate(_values(tree, where, 0)):
        if count >= _MAX_VALUES:
            raise ConfigError(f"{where}: more than {_MAX_VALUES} values")
    return _plain(tree, where)


def _values(tree: Any, where: str, depth: int) -> Iterator[Any]:
    """`tree` and all that is in it, aliases expanded."""
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{where}: nested too deep, at most {_MAX_DEPTH} levels")
    yield tree
    if isinstance(tree, Mapping | list | tuple):
        for value in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _values(value, where, depth + 1)


def _plain(tree: Any, where: str) -> Any:
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, str):
                raise ConfigError(f"{where}: the key {key!r} must be text; put it in quotes")
            _scalar(key, where)
        return {key: _plain(value, where) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value, where) for value in tree]
    return _scalar(tree, where)


def _scalar(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int) and value.bit_length() <= 1023:
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() and abs(value) <= _MAX_EXACT_FLOAT else value
    if isinstance(value, int):
        raise ConfigError(f"{where}: holds a number of {value.bit_length()} bits; nothing is that large")
    raise ConfigError(f"{where}: holds {type(value).__name__}, must be text, a number, true, false, null, a list or a mapping")


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: the text {value!r} is no valid Unicode") from None
    return value
