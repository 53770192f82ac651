"""YAML text to plain values: the repairs, and everything that is refused."""

import datetime
import math
from pathlib import Path
from typing import Any

import pytest

from raystage.config import ConfigError
from raystage.config.parse import parse, plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 100_000),
        ("-2.5e-3", -2.5e-3),
        ("1.e-3", 1e-3),
        (".5", 0.5),
        ("8.0", 8),
        ("1_000", 1000),
        ("0", 0),
        ("-7", -7),
        ("007", "007"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("'8'", "8"),
        ("true", True),
        ("~", None),
        ("", None),
        ("=", "="),
        ("[64, 128]", [64, 128]),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    parsed = parse(text, "key")
    assert parsed == value
    assert type(parsed) is type(value)


def test_nan_and_infinity_are_numbers() -> None:
    assert math.isnan(parse(".nan", "key"))
    assert parse("-.inf", "key") == -math.inf


def test_anchors_aliases_and_merge_keys() -> None:
    text = "base: &b {kind: text, path: a.txt}\none: *b\ntwo: {<<: *b, path: b.txt}\n"
    tree = parse(text, "file")
    assert tree["one"] == {"kind": "text", "path": "a.txt"}
    assert tree["two"] == {"kind": "text", "path": "b.txt"}


_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"^a: given twice \(line 3\); keep one$"),
        ("m: {x: 1, x: 2}", "x: given twice"),
        ("a: [1", r"^where: not YAML \(line 1\): "),
        ("a: b: c", r"not YAML \(line 1\)"),
        ("\tx: 1", "not YAML"),
        ("--- 1\n--- 2", "not YAML"),
        ("a: \x00", "not YAML"),
        ("a: *nothing", "undefined alias"),
        ("a: !!python/object/apply:os.system ['true']", r"a tag .* has no meaning here"),
        ("!!int ", r"where: not YAML \(line 1\): a tag \(tag:yaml.org,2002:int\) has no meaning here; write the value alone"),
        ("a: " + "1" * 5000, "not YAML"),
        ("a: " + "1" * 400, r"where: holds a number of \d+ bits"),
        ("a: !!binary aGk=", "a tag"),
        ("!!set {x}", "a tag"),
        ("[! x]", "a tag"),
        ("1: 2", r"where: the key 1 must be text; put it in quotes"),
        ("on: 2", "the key True must be text"),
        ("~: 2", "the key None must be text"),
        ("? [a, b]\n: 1", "not YAML"),
        ('a: "\\ud800"', "no valid Unicode"),
        ('"\\ud800": 1', "no valid Unicode"),
        ("&a [*a]", "where: nested too deep"),
        ("[" * 40 + "]" * 40, "where: nested too deep, at most 32 levels"),
        ("[" * 5000 + "]" * 5000, "where: nested too deep"),
        ("{a: " * 5000, "where: nested too deep"),
        (_LAUGHS, "where: more than 100000 values"),
    ],
)
def test_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text, "where")
    assert "\n" not in str(caught.value)


def test_copy_shares_nothing() -> None:
    tree: dict[str, Any] = {"data": {"sources": [{"kind": "text"}]}, "pair": (1, 2.0)}
    copy = plain(tree, "tree")
    copy["data"]["sources"][0]["kind"] = "jsonl"
    assert tree["data"]["sources"][0]["kind"] == "text"
    assert copy["pair"] == [1, 2]


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, Path("x"), datetime.date(2024, 1, 1)])
def test_objects_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"tree: holds .*, must be text, a number"):
        plain({"a": value}, "tree")
