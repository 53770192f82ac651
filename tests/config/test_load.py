"""Files, overrides and single keys: what is accepted, and the one line that refuses the rest."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from raystage.config import Config, ConfigError, dump, flat, from_tree, load, to_tree
from raystage.config.load import known_keys, unknown_key
from tests.config.refusal import message_of

# --- files


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "---\n", "{}", "null\n"):
        (tmp_path / "c.yaml").write_text(text)
        assert load(tmp_path / "c.yaml") == Config()


def test_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: a\ntraining: {batch_tokens: 4096, optimizer: {lr: 3e-4}}\n", encoding="utf-8-sig")
    config = load(path, ["training.batch_tokens=16384", "name=b", "pacing.lengths=[64, 128, 256]"])
    assert config.name == "b"
    assert config.training.batch_tokens == 16384
    assert config.training.optimizer.lr == 3e-4
    assert config.pacing.lengths == (64, 128, 256)


def test_anchors_are_expanded(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "data:\n  sources:\n    - &s {kind: text, path: a.txt, weight: 2}\n    - {<<: *s, path: b.txt}\n  validation_sources: [*s]\n"
    )
    data = load(path).data
    assert [(s.path, s.weight) for s in data.sources] == [("a.txt", 2.0), ("b.txt", 2.0)]
    assert data.validation_sources == data.sources[:1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\xff\xfe\x00\x80", "cannot be read (not a text file); give a YAML file"),
        (b"a\x00b", "not YAML"),
        (b"- 1\n- 2\n", "holds [1, 2], must be a mapping of keys to values"),
        (b"just words", "holds 'just words', must be a mapping"),
        (b"false", "holds false, must be a mapping"),
        (b"3.5", "holds 3.5, must be a mapping"),
        (b"seed: 1\nseed: 2\n", "seed: given twice"),
        (b"1: 2\n", "the key 1 must be text"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert message in message_of(load, path)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    assert "No such file or directory" in message_of(load, tmp_path / "missing.yaml")
    assert "Is a directory" in message_of(load, tmp_path)
    assert "cannot be read" in message_of(load, "a\0b")
    assert message_of(load, "two\nlines.yaml").startswith("two lines.yaml: cannot be read")


# --- keys


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainig.batch_tokens=1", "trainig: no such key; did you mean training?"),
        ("training.batch_token=1", "training.batch_token: no such key; did you mean training.batch_tokens?"),
        ("batch_tokens=1", "batch_tokens: no such key; did you mean training.batch_tokens?"),
        ("training.lr=1", "training.lr: no such key; did you mean training.optimizer.lr?"),
        ("warmup_steps=1", "warmup_steps: no such key; did you mean training.schedule.warmup_steps?"),
        ("duration=1", "duration: no such key; did you mean training.duration?"),
        ("data.path=x", "data.path: no such key; did you mean data.sources.0.path?"),
        ("model.n_embd=1", "model.n_embd: no such key; did you mean model.d_model?"),
        ("training.learning_rate=1", "training.learning_rate: no such key; did you mean training.optimizer.lr?"),
        (
            "training.duration=15e6",
            "training.duration=15000000: must be a number and 'steps', 'tokens', 'flops' or 'hours', like '4e6 tokens'",
        ),
        ("training.optimizer=adamw", "training.optimizer='adamw': must be a mapping of keys to values, like training.optimizer.kind=adamw"),
        ("model.d_model=1000000000000", "model.d_model=1000000000000: must be a whole number above 0 and at most 1000000"),
        ("training.optimizer.learning=1", "training.optimizer.learning: no such key; did you mean training.optimizer.lr?"),
        (
            "data.validation_sources=[{kid: text}]",
            "data.validation_sources.0.kid: no such key; did you mean data.validation_sources.0.kind?",
        ),
        ("data.sources=[{}, {pathh: x}]", "data.sources.1.pathh: no such key; did you mean data.sources.0.path?"),
        ("zzz=1", "zzz: no such key; 'raystage train --help' lists every key"),
        ("lengths[0]=1", "lengths[0]: no such key"),
        (" =1", "' =1': an override is key.sub=value, like training.batch_tokens=8192"),
        ("seed", "'seed': an override is key.sub=value"),
        ("", "'': an override is key.sub=value"),
        ("training..seed=1", "training.: no such key"),
    ],
)
def test_unknown_keys_name_the_nearest(override: str, message: str) -> None:
    assert message_of(from_tree, {}, [override]).startswith(message)


def test_long_keys_are_cut() -> None:
    assert len(message_of(from_tree, {"k" * 5000: 1})) < 200
    assert len(message_of(from_tree, {"name": "n" * 5000})) < 250


def test_known_keys_are_leaves_and_groups() -> None:
    known = known_keys()
    assert set(flat(to_tree(Config()))) < set(known)
    assert {"data", "data.sources", "training.optimizer", "data.sources.0.path", "data.validation_sources.0.path"} < set(known)
    assert len(known) == len(set(known))
    assert unknown_key("seeed", ["seed"]) == "seeed: no such key; did you mean seed?"


# --- values

WHOLE = "must be a whole number"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=true", f"seed=true: {WHOLE} at least 0 and below 2147483648"),
        ("seed='12'", f"seed='12': {WHOLE}"),
        ("seed=1.5", f"seed=1.5: {WHOLE}"),
        ("seed=-1", f"seed=-1: {WHOLE}"),
        ("seed=2147483648", f"seed=2147483648: {WHOLE}"),
        ("seed=null", f"seed=null: {WHOLE}"),
        ("seed=[1]", f"seed=[1]: {WHOLE}"),
        ("seed={a: 1}", f"seed=a mapping: {WHOLE}"),
        ("seed=.inf", f"seed=Infinity: {WHOLE}"),
        ("training.batch_tokens=0", f"training.batch_tokens=0: {WHOLE} above 0"),
        ("model.n_layer=" + "9" * 330, "model.n_layer: holds a number of"),
        ("model.context_length=100", f"model.context_length=100: {WHOLE} above 0, a multiple of 8"),
        ("training.optimizer.lr=.nan", "training.optimizer.lr=NaN: must be a number above 0"),
        ("training.optimizer.lr=.inf", "training.optimizer.lr=Infinity: must be a number above 0"),
        ("training.optimizer.lr=fast", "training.optimizer.lr='fast': must be a number above 0"),
        ("training.optimizer.lr=true", "training.optimizer.lr=true: must be a number above 0"),
        ("training.optimizer.beta1=1.0", "training.optimizer.beta1=1: must be a number at least 0 and below 1"),
        ("training.compile=1", "training.compile=1: must be true or false"),
        ("training.compile='yes'", "training.compile='yes': must be true or false"),
        ("training.precision=fp16", "training.precision='fp16': must be one of float32, bf16"),
        ("training.precision=null", "training.precision=null: must be one of float32, bf16"),
        ("model.family=gpt5", "model.family='gpt5': must be one of gpt2, llama, qwen3"),
        ("storage=", "storage=null: must be text of at least 1 character"),
        ("name=12", "name=12: must be text of 1 to 100 characters"),
        ("name=../up", "name='../up': must be text of 1 to 100 characters, matching ^[A-Za-z0-9]"),
        ("name=.hidden", "name='.hidden': must be text"),
        ('name="a\\n"', r"name='a\n': must be text"),
        ("data=null", "data=null: must be a mapping of keys to values"),
        ("data=[1]", "data=[1]: must be a mapping of keys to values"),
        ("training.optimizer=adam", "training.optimizer='adam': must be a mapping of keys to values"),
        ("data.sources=[]", "data.sources=[]: must be a list of mappings of at least 1"),
        ("data.sources=text", "data.sources='text': must be a list of mappings of at least 1"),
        ("data.sources=[text]", "data.sources.0='text': must be a mapping of keys to values"),
        ("data.validation_sources=[{}, 3]", "data.validation_sources.1=3: must be a mapping of keys to values"),
        ("data.validation_sources=[{weight: 0}]", "data.validation_sources.0.weight=0: must be a number above 0"),
        ("pacing.lengths=64", "pacing.lengths=64: must be null or a list, each entry a whole number above 0, a multiple of 8"),
        ("pacing.lengths=[64, x]", "pacing.lengths.1='x': must be a whole number above 0, a multiple of 8"),
        ("pacing.lengths=[64, 65]", "pacing.lengths.1=65: must be a whole number above 0, a multiple of 8"),
        ("pacing.lengths=[true]", "pacing.lengths.0=true: must be a whole number"),
        ("pacing.lengths=[[64]]", "pacing.lengths.0=[64]: must be a whole number"),
        (
            "pacing.order=[length, speed]",
            "pacing.order.1='speed': must be one of length, depth, width, batch, both, or several joined by +",
        ),
        ("pacing.at=[1.0]", "pacing.at.0=1: must be a number above 0 and below 1"),
    ],
)
def test_wrong_values_say_what_is_allowed(override: str, message: str) -> None:
    assert message_of(from_tree, {}, [override]).startswith(message)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.batch_tokens=8.192e3", "training.batch_tokens", 8192),
        ("data.tokenizer.train_bytes=2e7", "data.tokenizer.train_bytes", 20_000_000),
        ("training.optimizer.lr=1e-3", "training.optimizer.lr", 1e-3),
        ("training.optimizer.weight_decay=1", "training.optimizer.weight_decay", 1.0),
        ("training.optimizer.clip_norm=null", "training.optimizer.clip_norm", None),
        ("training.compile=yes", "training.compile", True),
        ("name=2024-01-01", "name", "2024-01-01"),
        ("name=007", "name", "007"),
        ("storage=a=b", "storage", "a=b"),
        ("tracking.mlflow_uri=http://host:5000", "tracking.mlflow_uri", "http://host:5000"),
        (" seed = 5", "seed", 5),
    ],
)
def test_accepted_values(override: str, key: str, value: Any) -> None:
    held = flat(to_tree(from_tree({}, [override])))[key]
    assert held == value
    assert type(held) is type(value)


# --- dotted overrides into lists


def test_override_reaches_into_a_list() -> None:
    tree = {"data": {"sources": [{"kind": "text", "path": "a"}, {"kind": "text", "path": "b"}]}, "pacing": {"lengths": [64, 256]}}
    config = from_tree(tree, ["data.sources.1.path=c", "pacing.lengths.0=128"])
    assert [source.path for source in config.data.sources] == ["a", "c"]
    assert config.pacing.lengths == (128, 256)
    assert tree["data"]["sources"][1]["path"] == "b"  # type: ignore[index]  # the caller's tree is left alone


def test_override_of_the_default_source() -> None:
    (source,) = from_tree({}, ["data.sources.0.kind=text", "data.sources.0.path=a.txt"]).data.sources
    assert (source.kind, source.path, source.split) == ("text", "a.txt", "train")


def test_later_override_wins() -> None:
    assert from_tree({"seed": 1}, ["seed=2", "seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("tree", "override", "message"),
    [
        ({}, "data.sources.1.path=x", "data.sources.1.path: '1' is no position in the list; positions are 0 to 0"),
        ({}, "data.sources.path=x", "data.sources.path: 'path' is no position in the list"),
        ({}, "data.sources.-1.path=x", "data.sources.-1.path: '-1' is no position"),
        ({}, "data.sources.\u00b2.path=x", "is no position"),
        ({}, "data.sources.\u0660.path=x", "is no position"),
        ({}, "data.sources." + "9" * 5000 + ".path=x", "is no position"),
        ({"data": {"validation_sources": []}}, "data.validation_sources.0.path=x", "it is empty; give the whole list"),
        ({"pacing": {"lengths": [64, 256]}}, "pacing.lengths.2=512", "pacing.lengths.2: '2' is no position"),
        ({"seed": 1}, "seed.x=1", "seed.x: 'seed' holds the value 1 and has no keys below it"),
        ({"seed": 1}, ".".join(["a"] * 3000) + "=1", "nested too deep"),
        ({}, "model=[[", "model: not YAML"),
    ],
)
def test_overrides_that_lead_nowhere(tree: dict[str, Any], override: str, message: str) -> None:
    assert message in message_of(from_tree, tree, [override])


# --- the result


def test_defaults_are_valid_and_frozen() -> None:
    config = from_tree({})
    assert config == Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_dump_and_tree_come_back_equal(tmp_path: Path) -> None:
    config = from_tree({}, ["training.optimizer.lr=0.1", "data.sources=[{kind: text, path: \u00fc.txt}]", "pacing.lengths=[64, 256]"])
    (tmp_path / "c.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "c.yaml") == config
    assert from_tree(to_tree(config)) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_error_is_one_line_and_can_be_sent_between_processes() -> None:
    error = ConfigError("a\nb\x1b[31m\u2028c")
    assert str(error) == "a b [31m c"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, ValueError)
