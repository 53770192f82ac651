"""What the schema says about each key, as words: for error messages, the help text and the reference file."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, cast

import pydantic

from raystage.config.schema import Config

_BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}
MAPPING = "a mapping of keys to values"
_TYPES = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}


@dataclasses.dataclass(frozen=True)
class Key:
    name: str  # dotted; an entry of a list of mappings is `.0.`
    allowed: str  # reads on after "must be"
    default: Any  # plain: what YAML would hold
    description: str
    is_group: bool = False  # has keys below it
    entry_allowed: str = ""  # of each entry, where the value may be a list


def keys(root: type[Any] = Config) -> tuple[Key, ...]:
    """Every key of a configuration class in its order, each group before the keys below it."""
    return _keys(cast(Any, root))


@functools.cache
def _keys(root: Any) -> tuple[Key, ...]:
    schema = pydantic.TypeAdapter(root).json_schema()
    return tuple(_walk("", schema, dataclasses.asdict(root()), schema["$defs"]))


def _walk(prefix: str, group: dict[str, Any], defaults: Any, defs: dict[str, Any]) -> Iterator[Key]:
    for leaf, schema in group["properties"].items():
        name, default = f"{prefix}{leaf}", defaults[leaf]
        description = schema.get("description", "")
        entry = schema.get("items", {})
        if "$ref" in schema:
            yield Key(name, MAPPING, default, description, is_group=True)
            yield from _walk(f"{name}.", _target(schema, defs), default, defs)
        elif "$ref" in entry:
            allowed = "a list of mappings" + _size_words(schema)
            yield Key(name, allowed, _plain(default), description, is_group=bool(default), entry_allowed=MAPPING)
            yield from _walk(f"{name}.0.", _target(entry, defs), default[0], defs) if default else ()
        else:
            yield Key(name, words(schema), _plain(default), description, entry_allowed=_entry_words(schema))


def _target(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    return defs[schema["$ref"].rsplit("/", 1)[-1]]


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def words(schema: dict[str, Any]) -> str:
    """A JSON schema of one value in words that read on after "must be"."""
    if "allowed" in schema:
        return str(schema["allowed"])
    if "$ref" in schema:
        return MAPPING
    if "anyOf" in schema:
        return " or ".join(words(option) for option in sorted(schema["anyOf"], key=_is_list))
    if schema.get("type") == "null":
        return "null"
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if _is_list(schema):
        return f"a list{_size_words(schema)}, each entry {words(schema['items'])}"
    return _TYPES[schema["type"]] + _bound_words(schema)


def _is_list(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "array"


def _entry_words(schema: dict[str, Any]) -> str:
    return next((words(option["items"]) for option in schema.get("anyOf", [schema]) if _is_list(option)), "")


def _bound_words(schema: dict[str, Any]) -> str:
    bounds = [f"{word} {schema[name]}" for name, word in _BOUNDS.items() if name in schema]
    parts = [" and ".join(bounds)] if bounds else []
    if "multipleOf" in schema:
        parts.append(f"a multiple of {schema['multipleOf']}")
    if "maxLength" in schema:
        parts.append(f"of {schema['minLength']} to {schema['maxLength']} characters")
    elif "minLength" in schema:
        parts.append(f"of at least {schema['minLength']} character")
    if "pattern" in schema:
        parts.append(f"matching {schema['pattern']}")
    return " " + ", ".join(parts) if parts else ""


def _size_words(schema: dict[str, Any]) -> str:
    return f" of at least {schema['minItems']}" if "minItems" in schema else ""
