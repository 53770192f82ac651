"""Hundreds of bad inputs through the command line: exit code 2, one line, no traceback, no cluster, no file where none belongs."""

import gzip
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raystage.config import dump
from raystage.config.keys import keys
from tests.evaluation.made_model import made_folder
from tests.test_cli import raystage
from tests.training.made_run import configure, train_here

CHANCE = random.Random(20)
SECRET = "hunter2"


def _noise(n_bytes: int) -> bytes:
    return CHANCE.randbytes(n_bytes)


CONFIGURATIONS: dict[str, bytes] = {
    "no text": b"\xff\xfe\x00\x01",
    "binary": _noise(300),
    "open bracket": b"name: [a, b",
    "open brace": b"{name: x",
    "open quote": b"name: 'x",
    "tab": b"model:\n\tn_layer: 2\n",
    "bad indent": b"model:\n  n_layer: 2\n n_head: 1\n",
    "python object": b"!!python/object/apply:os.system ['touch ../escaped']\n",
    "python name": b"name: !!python/name:os.system\n",
    "python module": b"name: !!python/module:os\n",
    "own tag": b"name: !run x\n",
    "tag of a type": b"seed: !!str 3\n",
    "list": b"- name: x\n",
    "scalar": b"name\n",
    "number": b"3\n",
    "two documents": b"name: a\n---\nname: b\n",
    "key twice": b"seed: 1\nseed: 2\n",
    "unknown anchor": b"name: *x\n",
    "key of a number": b"1: 2\n",
    "key of a list": b"? [a, b]\n: 1\n",
    "nested too deep": b"name: " + b"[" * 1500 + b"]" * 1500,
    "mappings too deep": b"".join(b" " * i + b"a:\n" for i in range(200)),
    "aliases that explode": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n".encode() for p, c in zip("abcdefg", "bcdefgh", strict=True)),
    "alias of itself": b"a: &a [*a]\n",
    "control character": b"name: a\x07b\n",
    "nul": b"name: a\x00b\n",
    "surrogate": b'name: "\\ud800"\n',
    "huge number": b"seed: " + b"9" * 5000 + b"\n",
    "infinite": b"training: {optimizer: {lr: .inf}}\n",
    "not a number": b"training: {optimizer: {lr: .nan}}\n",
    "merge key": b"base: &b {seed: 1}\n<<: *b\nnonsense: 1\n",
    "directive": b"%YAML 9.9\n---\nname: x\n",
    "date": b"seed: 2024-01-01\n",
    "secret": f"tracking: {{mlflow_uri: 'http://me:{SECRET}@host'}}\n".encode(),
    "secret in a query": f"storage: 's3://b/r?X-Amz-Signature={SECRET}'\n".encode(),
    "secret of a store": f"data: {{cache_dir: 's3://key:{SECRET}@b/d'}}\n".encode(),
}
NAMES = [
    *(
        "../x",
        "..",
        ".",
        "",
        "/abs",
        "a/b",
        "a\\b",
        "~",
        "~/x",
        "-x",
        "_x",
        ".hidden",
        "a b",
        "a\tb",
        "a\nb",
        "a\rb",
        "a\x00b",
        "a\x1b[31mb",
    ),
    *(
        "x" * 101,
        "x" * 5000,
        "\uff41",
        "\u0430",
        "a\u202eb",
        "a\u200bb",
        "é",
        "💥",
        "a;b",
        "$(id)",
        "`id`",
        "a|b",
        "a*",
        "a?",
        "a:b",
        "%2e%2e%2fx",
        "a\u2215b",
    ),
]
ADDRESSES = [
    *("nonsense", "host", "host:", ":6379", "host:0", "host:65536", "host:-1", "host:port", "host:63 79", "host:6379/x", "host:6379;id"),
    *(
        "http://127.0.0.1:8265",
        "https://h:1",
        "ftp://h:1",
        "file:///etc/passwd",
        "ray://",
        "ray://h",
        "ray://h:1/x",
        "$(id):1",
        "`id`:1",
        "-x:1",
    ),
    *(
        "host:6379\nRAY=1",
        "host:6379\x00",
        "a b:1",
        "h" * 400 + ":1",
        "héte:1",
        "[::1:6379",
        "[zz]:1",
        "..:1",
        f"u:{SECRET}@h:6379",
        "host::6379",
    ),
]


def _truncate(share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def _replace(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: _write(folder / name, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tree = json.loads((folder / "manifest.json").read_text())
        change(tree)
        (folder / "manifest.json").write_text(json.dumps(tree))

    return damage


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    # a pickle that would run a command
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ../../escaped'\ntR.")


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "empty weights": _replace("model.safetensors", b""),
    "noise for weights": _replace("model.safetensors", _noise(1000)),
    "a header that is too long": _replace("model.safetensors", b"\xff" * 8 + b"{}"),
    "a header that is no JSON": _replace("model.safetensors", (9).to_bytes(8, "little") + b"{{{{{{{{{"),
    "half the weights": _truncate(0.5),
    "a tenth of the weights": _truncate(0.1),
    "weights without their end": _truncate(0.999),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "a pickle": _pickle,
    "no config.json": lambda folder: (folder / "config.json").unlink(),
    "broken config.json": _replace("config.json", b"{"),
    "config.json of a list": _replace("config.json", b"[1]"),
    "config.json of code": _replace("config.json", b'{"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}'),
    "noise for config.json": _replace("config.json", _noise(64)),
}
MANIFESTS: dict[str, Callable[[Path], None]] = {
    "no JSON": _replace("manifest.json", b"{"),
    "noise": _replace("manifest.json", _noise(200)),
    "empty": _replace("manifest.json", b""),
    "a list": _replace("manifest.json", b"[]"),
    "null": _replace("manifest.json", b"null"),
    "a number": _replace("manifest.json", b"3"),
    "nested": _replace("manifest.json", b"[" * 100_000),
    "names outside": _manifest(lambda tree: tree["files"].update({"../../x": "0"})),
    "absolute names": _manifest(lambda tree: tree["files"].update({"/etc/passwd": "0"})),
    "control characters": _manifest(lambda tree: tree["files"].update({"a\nb": "0"})),
    "files of a list": _manifest(lambda tree: tree.update(files=[1])),
    "files of a number": _manifest(lambda tree: tree.update(files=3)),
    "another checksum": _manifest(lambda tree: tree["files"].update({"model.safetensors": "00"})),
    "a missing file": _manifest(lambda tree: tree["files"].update({"gone.safetensors": "00"})),
    "no counters": _manifest(lambda tree: tree.pop("counters")),
    "counters of text": _manifest(lambda tree: tree.update(counters="x")),
    "a spec of nonsense": _manifest(lambda tree: tree.update(spec={"x": 1})),
    "a spec of null": _manifest(lambda tree: tree.update(spec=None)),
    "more fields": _manifest(lambda tree: tree.update(more=1)),
    "another schema": _manifest(lambda tree: tree.update(schema_version=99)),
    "schema of text": _manifest(lambda tree: tree.update(schema_version="x")),
    "taken of a number": _manifest(lambda tree: tree.update(taken=1)),
    "a duration of text": _manifest(lambda tree: tree.update(duration="x")),
    "a duration of a number": _manifest(lambda tree: tree.update(duration=3)),
}
TEXTS: dict[str, bytes] = {
    "broken.gz": gzip.compress(b"a text" * 100)[:25],
    "noise.gz": _noise(200),
    "plain.gz": b"no archive at all",
    "noise.zst": _noise(200),
    "short.zst": b"\x28\xb5\x2f\xfd\x00",
    "noise.xz": _noise(200),
    "latin.txt": "gr\u00fc\u00dfe".encode("latin-1") * 50,
    "noise.txt": _noise(5000),
    "empty.txt": b"",
    "utf16.txt": "a text".encode("utf-16"),
}
LINES: dict[str, bytes] = {
    **{f"lines_{name.replace('.txt', '.jsonl')}": content for name, content in TEXTS.items()},
    "broken.jsonl": b'{"text": "a"}\n{"text": \n',
    "list.jsonl": b"[1]\n",
    "number.jsonl": b"1\n",
    "null.jsonl": b"null\n",
    "other.jsonl": b'{"words": "a"}\n',
    "no_text.jsonl": b'{"text": 3}\n',
    "surrogate.jsonl": b'{"text": "\\ud800"}\n',
    "deep.jsonl": b'{"text": ' + b"[" * 100_000 + b"}\n",
    "large_number.jsonl": b'{"text": ' + b"9" * 10_000 + b"}\n",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with a run, a model and a configuration; what is beside it must stay as it is."""
    root = tmp_path_factory.mktemp("bad")
    work = root / "here" / "work"
    work.mkdir(parents=True)
    config = configure(work, ["name=good", "training.duration=20 steps", "pacing={rule: table, at: []}", "runtime.engine=local"])
    train_here(config)
    (work / "good.yaml").write_text(dump(config))
    (work / "runs/good/config.yaml").write_text(dump(config))
    (work / "search.yaml").write_text("base: good.yaml\nspace: {training.optimizer.lr: [0.001, 0.002]}\nstrategy: {kind: grid}\n")
    made_folder(work / "hf")
    return work


@pytest.fixture(autouse=True)
def watched(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cluster starts, and nothing appears outside of the working folder, nor in its folder of runs."""
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("a cluster was started"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HOME", str(place / "home"))
    before = _outside(place)
    yield
    assert _outside(place) == before
    assert {path.name for path in (place / "runs").iterdir()} <= {"good", "search"}
    assert not ray.is_initialized()


def _outside(place: Path) -> set[Path]:
    root = place.parents[1]
    return {path for path in root.rglob("*") if place not in path.parents}


def refused(place: Path, *arguments: str) -> None:
    result = raystage(*arguments, cwd=place)
    said = f"{arguments} -> {result.code}: {result.stderr[-2000:]} {result.stdout[-300:]}"
    assert result.code == 2, said
    assert result.stderr.startswith("raystage: "), said
    assert result.stderr.count("\n") == 1, said
    assert len(result.stderr) < 700, said
    assert result.stderr[:-1].isprintable(), said
    assert SECRET not in result.stderr + result.stdout
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.parametrize("command", ["train", "plan", "prepare", "tune", "doctor"])
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_configurations(place: Path, kind: str, command: str) -> None:
    (place / "bad.yaml").write_bytes(CONFIGURATIONS[kind])
    refused(place, command, "bad.yaml")


OF_RUNS = ["no text", "list", "open bracket", "python object", "nested too deep", "secret"]


@pytest.mark.parametrize("kind", OF_RUNS)
@pytest.mark.parametrize("command", ["sync", "export", "evaluate"])
def test_configurations_of_runs(place: Path, kind: str, command: str) -> None:
    with_other_run(place, kind)
    refused(place, command, "others/other", *(["out"] if command == "export" else []))
    assert not (place / "out").exists()


@pytest.mark.parametrize("kind", OF_RUNS)
def test_a_run_that_cannot_be_read_does_not_hide_the_others(place: Path, kind: str) -> None:
    with_other_run(place, kind)
    shutil.copytree(place / "runs/good", place / "others" / "well", dirs_exist_ok=True)
    listed = raystage("runs", "--storage", "others", cwd=place)
    done = {words[0]: words[1] for words in map(str.split, listed.stdout.splitlines()) if len(words) > 1}
    assert (listed.code, done["other"]) == (0, "?")
    assert done["well"].endswith("%")
    assert SECRET not in listed.stdout + listed.stderr


def with_other_run(place: Path, kind: str) -> None:
    shutil.copytree(place / "runs/good", run := place / "others" / "other", dirs_exist_ok=True)
    (run / "config.yaml").write_bytes(CONFIGURATIONS[kind])


LEAVES = [key.name for key in keys() if not key.is_group]


@pytest.mark.parametrize("key", LEAVES)
def test_values_that_no_key_takes(place: Path, key: str) -> None:
    refused(place, "train", "good.yaml", f"{key}={{nonsense: [1, {{}}]}}")


@pytest.mark.parametrize(
    "key", ["", "=", "x", "x=", "x.y=1", "a" * 5000 + "=1", "name.x=1", "data.sources.9.path=x", "\x00=1", "__class__=1"]
)
@pytest.mark.parametrize("command", ["train", "plan", "prepare", "tune", "doctor", "grow", "replay"])
def test_overrides(place: Path, key: str, command: str) -> None:
    first = {"grow": ["runs/good", "out"], "replay": ["runs/good"], "tune": ["search.yaml"]}.get(command, ["good.yaml"])
    refused(place, command, *first, key)


@pytest.mark.parametrize("name", NAMES)
def test_names(place: Path, name: str) -> None:
    quoted = json.dumps(name, ensure_ascii=False)
    refused(place, "train", "good.yaml", f"name={quoted}")
    refused(place, "tune", "search.yaml", f"name={quoted}")
    refused(place, "runs", "stop", f"--storage={place / 'runs'}", "--", name)
    refused(place, "export", "runs/good", "out", f"--checkpoint={name}")
    refused(place, "report", f"memory://runs/{name}")


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses(place: Path, address: str) -> None:
    quoted = json.dumps(address, ensure_ascii=False)
    refused(place, "train", "good.yaml", f"runtime.address={quoted}", "--engine", "ray")
    refused(place, "doctor", "good.yaml", f"--address={quoted}")


@pytest.mark.parametrize("command", ["evaluate", "generate", "grow", "train"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_models(place: Path, kind: str, command: str) -> None:
    shutil.rmtree(place / "bad", ignore_errors=True)
    shutil.copytree(place / "hf", place / "bad")
    CHECKPOINTS[kind](place / "bad")
    what = {"evaluate": ["--text", "made.jsonl"], "grow": ["out", "growth.width=2"]}.get(command, [])
    if command == "train":
        if "config.json" not in kind:  # the run builds its own
            refused(place, "train", "good.yaml", "init_from.path=bad", "name=new")
    else:
        refused(place, command, "bad", *what)
    assert not (place / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "generate", "grow", "export"])
@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests(place: Path, kind: str, command: str) -> None:
    shutil.rmtree(place / "others", ignore_errors=True)
    shutil.copytree(place / "runs/good", run := place / "others" / "other")
    for folder in (run / "checkpoints").glob("[0-9]*"):
        MANIFESTS[kind](folder)
    shutil.rmtree(run / "model", ignore_errors=True)
    what = {"grow": ["out", "growth.width=2"], "export": ["out"]}.get(command, [])
    refused(place, command, str(run), *what)
    assert not (place / "out").exists()


@pytest.mark.parametrize("command", ["prepare", "train", "plan", "doctor"])
@pytest.mark.parametrize("name", [*TEXTS, *LINES])
def test_data(place: Path, name: str, command: str) -> None:
    (place / name).write_bytes({**TEXTS, **LINES}[name])
    kind = "text" if name in TEXTS else "jsonl"
    source = f"data.sources=[{{kind: {kind}, path: {name}}}]"
    if command in ("prepare", "train"):
        refused(place, command, "good.yaml", source, "name=new")
    else:
        assert raystage(command, "good.yaml", source, cwd=place).code in (0, 1)  # they look at no text


@pytest.mark.parametrize("name", TEXTS)
def test_texts_to_measure(place: Path, name: str) -> None:
    (place / name).write_bytes(TEXTS[name])
    refused(place, "evaluate", "hf", "--text", name)
    refused(place, "evaluate", "hf", "--lambada", name)


@pytest.mark.parametrize("name", [*LINES, *TEXTS])
def test_curves(place: Path, name: str) -> None:
    (place / name).write_bytes({**TEXTS, **LINES}[name])
    refused(place, "replay", name)


@pytest.mark.parametrize("command", ["sync", "report", "export", "evaluate", "generate", "grow", "replay", "train", "plan"])
@pytest.mark.parametrize("where", ["nowhere", "made.jsonl", "", "x" * 300, "s3x://b/r", "data"])
def test_places(place: Path, where: str, command: str) -> None:
    what = {"export": ["out"], "grow": ["out", "growth.width=2"]}.get(command, [])
    refused(place, command, where, *what)


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_folder_that_is_a_file(place: Path, command: str) -> None:
    (place / "file").write_text("")
    if command == "train":
        refused(place, "train", "good.yaml", "storage=file/runs", "--engine", "local")
    else:
        (place / "s.yaml").write_text("name: s\nbase: good.yaml\noverrides: {storage: file/runs}\nspace: {training.optimizer.lr: [0.01]}\n")
        refused(place, "tune", "s.yaml")
