"""Whatever is given: a Config, or a ConfigError of one line. Nothing else."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from raystage.config import Config, ConfigError, dump, from_tree, to_tree
from raystage.config.keys import keys
from raystage.config.load import known_keys
from raystage.config.parse import parse

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-1, 600).map(lambda n: n * 8)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["text", "stdlib", "dataset", "slope", "table", "length", "4e6 tokens", "1e999 steps"])
    | st.binary(max_size=3)
)
NAMES = st.sampled_from(sorted({part for name in known_keys() for part in name.split(".")})) | st.text(max_size=6)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.integers() | st.none(), inner, max_size=4),
    max_leaves=12,
)
OVERRIDES = st.lists(
    st.builds("{}={}".format, st.sampled_from(known_keys()) | st.lists(NAMES, max_size=4).map(".".join), SCALARS | TREES)
    | st.text(st.characters(), max_size=20),
    max_size=3,
)
YAML_ALPHABET = st.sampled_from(
    [*"abc012.-_eE+:,[]{}#&*!|>'\"%@`~? \n\t=<", "\x00", "\u2028", "seed", "data:", "- ", "!!int ", "<<: ", "&a ", "*a"]
)


def outcome(call: Any, *arguments: Any) -> Any:
    """What `call` returns, or None for a ConfigError of one printable line; any other exception passes through."""
    try:
        return call(*arguments)
    except ConfigError as error:
        message = str(error)
    assert message
    assert message.isprintable()
    return None


@given(st.dictionaries(NAMES, TREES, max_size=4), OVERRIDES)
@settings(max_examples=300, deadline=None)
@example({}, ["data.sources.0.0=1"])
@example({"data": {"sources": [[]]}}, ["data.sources.0.0=1"])
@example({"a\ud800": 1}, [])
@example({}, ["seed=\ud800"])
@example({}, ["\ud800.x=1"])
def test_any_tree_and_overrides(tree: dict[str, Any], overrides: list[str]) -> None:
    config = outcome(from_tree, tree, overrides)
    if config is not None:
        assert isinstance(config, Config)
        assert from_tree(to_tree(config)) == config
        assert from_tree(parse(dump(config), "dump")) == config


LEAVES = [key for key in keys() if not key.is_group]


@given(st.sampled_from(LEAVES), TREES)
@settings(max_examples=400, deadline=None)
def test_any_value_of_any_key(key: Any, value: Any) -> None:
    tree: Any = value
    for part in reversed(key.name.split(".")):
        tree = [tree] if part == "0" else {part: tree}
    config = outcome(from_tree, tree)
    assert config is None or from_tree(to_tree(config)) == config


@given(st.lists(YAML_ALPHABET, max_size=30).map("".join) | st.text(max_size=60))
@settings(max_examples=400, deadline=None)
def test_any_text(text: str) -> None:
    outcome(parse, text, "file")
