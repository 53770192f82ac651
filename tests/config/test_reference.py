"""The reference file and the key table: complete, up to date, and nothing but the defaults."""

import itertools
from pathlib import Path

import yaml

from raystage.config import Config, flat, load, to_tree
from raystage.config.reference import key_table, reference_yaml

REFERENCE = Path(__file__).parents[2] / "tune_configs" / "reference.yaml"


def test_committed_file_is_up_to_date() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference_yaml(), (
        "run: python -m raystage.config.reference > tune_configs/reference.yaml"
    )


def test_committed_file_loads_to_the_defaults() -> None:
    assert load(REFERENCE) == Config()


def test_file_names_every_key_at_its_default() -> None:
    assert yaml.safe_load(reference_yaml()) == to_tree(Config())


def test_every_value_stands_under_a_comment_with_its_default() -> None:
    pairs = itertools.pairwise(reference_yaml().splitlines())
    values = [(above, line) for above, line in pairs if line and not line.endswith(":") and not line.lstrip().startswith("#")]
    assert len(values) == len(key_table())
    for above, line in values:
        assert above.lstrip().startswith("# ")
        assert f"default {line.split(': ', 1)[1]})" in above


def test_table_holds_every_key_once_with_all_its_columns() -> None:
    names = [name for name, *_ in key_table()]
    assert sorted(names) == sorted(flat(to_tree(Config())))
    assert all(all(row) for row in key_table())


def test_rows_say_what_is_allowed_in_words() -> None:
    rows = {name: (allowed, default, description) for name, allowed, default, description in key_table()}
    assert rows["model.context_length"] == ("a whole number above 0, a multiple of 8", "256", "[tokens] full context of the target")
    assert rows["pacing.cutting"][0] == "one of segment, truncate, recycle"
    assert rows["pacing.lengths"][:2] == ("null or a list, each entry a whole number above 0, a multiple of 8", "null")
    assert rows["pacing.confidence"][0] == "a number at least 0.5 and below 1"
    assert rows["training.compile"][0] == "true or false"
    assert rows["training.optimizer.clip_norm"][:2] == ("a number above 0 or null", "1.0")
