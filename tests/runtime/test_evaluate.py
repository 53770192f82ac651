"""`raystage evaluate` and `generate` as a user meets them: every kind of source, what is saved and logged, refusals of one line."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from raystage.config import dump
from raystage.runtime.evaluate import Request, evaluate
from raystage.tracking.mlflow_client import connect, import_quietly
from raystage.tracking.mlflow_mark import Mark
from raystage.tracking.records import RunRecords
from tests.evaluation.made_model import made_folder, made_text
from tests.test_cli import Said, raystage
from tests.training.made_run import configure, train_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps with attention that stops at documents, a text, passages, and a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = configure(folder, ["name=small", "model.dropout=0.2", "data.attend_across_documents=false", "validation.rows=5"])
    train_here(config)
    (folder / "runs/small/config.yaml").write_text(dump(config))
    (folder / "text.txt").write_text(made_text(80), encoding="utf-8")
    passages = ["the loss of a model", "slopes rest until zyx", "stages grow wider"]
    (folder / "passages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in passages))
    made_folder(folder / "hf")
    return folder


def said(folder: Path, *arguments: str) -> Said:
    result = raystage(*arguments, cwd=folder)
    assert result.code == 0, result.stderr
    return result


def newest(folder: Path) -> Path:
    return max(path for path in (folder / "runs/small/checkpoints").iterdir() if path.name.endswith("-end"))


def test_without_options_it_is_the_validation_loss_of_the_run(folder: Path) -> None:
    recorded = RunRecords.load(folder / "runs/small").val[-1]
    shown = said(folder, "evaluate", "runs/small")
    path = folder / f"runs/small/evaluations/{newest(folder).name}-validation-32.json"
    tree = json.loads(path.read_text())
    (result,) = tree["results"]
    assert (tree["model"]["step"], tree["model"]["tokens_seen"]) == (recorded["step"], recorded["tokens_seen"])
    assert result["loss"] == pytest.approx(recorded["val_loss"], rel=1e-6)
    assert result["n_rows"] == 5
    assert len(result["losses"]) == 32
    assert [(part["from"], part["to"]) for part in result["ranges"]] == [(0, 7), (8, 15), (16, 31)]
    assert f"{result['loss']:.4f}" in shown.stdout
    assert "MLflow" not in shown.stdout


def test_what_is_saved_says_how_it_was_measured(folder: Path) -> None:
    options = ("--text", "text.txt", "--lambada", "passages.jsonl", "--context", "16", "--stride", "4", "--words", "81", "--positions")
    said(folder, "evaluate", "runs/small", *options, "--json", "all.json")
    tree = json.loads((folder / "all.json").read_text())
    text, rows, passages = tree["results"]
    assert [result["kind"] for result in tree["results"]] == ["perplexity", "text_by_position", "lambada"]
    settings = tree["settings"]
    assert (settings["context_tokens"], settings["stride_tokens"], settings["precision"]) == (16, 4, "float32")
    assert {"raystage", "torch", "transformers"} == set(tree["versions"])
    assert (text["n_words"], text["n_bytes"]) == (81, len(made_text(80).encode()))
    assert len(text["sha256"]) == 64
    assert (rows["n_rows"], passages["n_passages"]) == (text["n_tokens"] // 16, 3)
    saved = folder / "runs/small/evaluations" / f"{newest(folder).name}-text-16-4.json"
    assert json.loads(saved.read_text())["results"] == [text]
    assert tree["model"]["files_blake2b"] == json.loads((newest(folder) / "manifest.json").read_text())["files"]


def loss_of(source: Path | str, checkpoint: str | None = None, **options: Any) -> float:
    request = Request(texts=(Path(str(options.pop("text"))),), device="cpu", **options)
    (result,) = evaluate(str(source), checkpoint, request)["results"]
    return float(result["loss"])


def test_every_kind_of_source_gives_the_same_figure(folder: Path, tmp_path: Path) -> None:
    text, run, checkpoint = folder / "text.txt", folder / "runs/small", newest(folder)
    expected = loss_of(run, text=text)
    said(folder, "export", "runs/small", str(tmp_path / "exported"))
    assert loss_of(checkpoint, text=text) == expected
    assert loss_of(run, checkpoint.name, text=text) == expected
    assert loss_of(tmp_path / "exported", text=text) == expected
    assert loss_of(run, "00000024-1-before-2", text=text) != expected
    # as fsdp leaves it: the weights in shards
    (tmp_path / "exported/model-shards").mkdir()
    (tmp_path / "exported/model.safetensors").rename(tmp_path / "exported/model-shards/shard-00001-model.safetensors")
    assert loss_of(tmp_path / "exported", text=text) == expected


def test_figures_go_into_the_mlflow_run_at_the_checkpoints_step(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "small"
    shutil.copytree(folder / "runs/small", run)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    import_quietly()
    client = connect(uri)
    run_id = client.create_run(client.create_experiment("made", str(tmp_path / "artifacts"))).info.run_id
    Mark(run_id).save(run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    shown = said(folder, "evaluate", str(run), "--lambada", "passages.jsonl")
    assert "MLflow: logged" in shown.stdout
    (point,) = client.get_metric_history(run_id, "eval/passages-32/accuracy")
    assert point.step == 60
    assert client.list_artifacts(run_id, "evaluations")[0].path.endswith("-end-passages-32.json")
    assert "MLflow" not in said(folder, "evaluate", str(run), "--lambada", "passages.jsonl", "--no-mlflow").stdout
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert "not logged" in said(folder, "evaluate", str(run), "--lambada", "passages.jsonl").stdout
    assert not (tmp_path / "other.db").exists()


def test_of_a_run_at_a_uri_the_files_lie_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(folder / "runs/small", tmp_path / "there/small")
    said(folder, "evaluate", f"file://{tmp_path}/there/small", "--text", "text.txt", "--stride", "2")
    (path,) = (tmp_path / "there/small/evaluations").glob("*-end-text-32-2.json")
    assert json.loads(path.read_text())["results"][0]["loss"] == loss_of(folder / "runs/small", text=folder / "text.txt", stride_tokens=2)


@pytest.fixture(scope="module")
def broken(folder: Path) -> Path:
    """Files and folders with something wrong."""
    (folder / "empty.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (folder / "nothing.jsonl").write_text("")
    (folder / "untitled.jsonl").write_text('{"text": "a sign"}\n{"title": "a sign"}\n')
    (folder / "word.jsonl").write_text('{"text": "a sign"}\n{"text": "sign"}\n')
    for name in ("no-tokenizer", "no-weights", "torn", "lacking", "pickled", "other-tokenizer"):
        shutil.copytree(folder / "hf", folder / name)
    for path in (folder / "no-tokenizer").glob("tokenizer*"):
        path.unlink()
    (folder / "no-weights/model.safetensors").unlink()
    (folder / "torn/model.safetensors").write_bytes(b"torn")
    (folder / "pickled/model.safetensors").rename(folder / "pickled/pytorch_model.bin")
    _change_config(folder / "lacking", n_layer=3)
    tokenizer = json.loads((folder / "other-tokenizer/tokenizer.json").read_text())
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] += [{"id": 300 + i, "content": f"<more {i}>", **kind} for i in range(100)]
    (folder / "other-tokenizer/tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copytree(folder / "runs/small", folder / "damaged")
    with (folder / "damaged/checkpoints" / newest(folder).name / "model.safetensors").open("ab") as file:
        file.write(b"more")
    return folder


def _change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--text", "text.txt"], ["nowhere", "no such folder"]),
        (["hf", "--text", "nowhere.txt"], ["nowhere.txt", "no such file"]),
        (["hf", "--text", "empty.txt"], ["empty.txt", "two tokens"]),
        (["hf", "--text", "latin.txt"], ["latin.txt", "UTF-8"]),
        (["hf", "--lambada", "nothing.jsonl"], ["nothing.jsonl", "no passages"]),
        (["hf", "--lambada", "untitled.jsonl"], ["untitled.jsonl line 2", "'text'"]),
        (["hf", "--lambada", "word.jsonl"], ["word.jsonl", "passage 2"]),
        (["hf", "--lambada", "text.txt"], ["text.txt line 1", "not JSON"]),
        (["hf"], ["hf", "no run folder"]),
        (["hf", "--text", "text.txt", "--validation"], ["hf", "no run folder"]),
        (["hf", "--text", "text.txt", "--context", "17"], ["--context 17", "16"]),
        (["hf", "--text", "text.txt", "--stride", "17"], ["--stride 17", "1 to 16"]),
        (["hf", "--text", "text.txt", "--stride", "0"], ["--stride 0", "1 to 16"]),
        (["hf", "--text", "text.txt", "--mlflow"], ["--mlflow", "hf"]),
        (["hf", "--text", "text.txt", "--device", "cuda"], ["--device cuda"]),
        (["hf", "--text", "text.txt", "--checkpoint", "x"], ["--checkpoint x", "no run folder"]),
        (["hf", "--lambada", "passages.jsonl", "--words", "9"], ["--words 9"]),
        (["hf", "--lambada", "passages.jsonl", "--positions"], ["--positions"]),
        (["hf", "--text", "text.txt", "--json", "text.txt/x.json"], ["text.txt/x.json", "written"]),
        (["no-tokenizer", "--text", "text.txt"], ["no-tokenizer", "tokenizer.json"]),
        (["no-weights", "--text", "text.txt"], ["no-weights", "model.safetensors"]),
        (["torn", "--text", "text.txt"], ["torn", "model.safetensors"]),
        (["lacking", "--text", "text.txt"], ["lacking", "transformer.h.2"]),
        (["pickled", "--text", "text.txt"], ["pickled", "pickle"]),
        (["other-tokenizer", "--text", "text.txt"], ["entries", "the model 320"]),
        (["runs/small", "--checkpoint", "x"], ["x", "no such checkpoint"]),
    ],
    ids=lambda value: " ".join(value[:5]),
)
def test_a_mistake_is_one_line_and_exit_code_2(broken: Path, arguments: list[str], words: list[str]) -> None:
    result = raystage("evaluate", *arguments, cwd=broken)
    assert result.code == 2, result.stdout
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over_else(broken: Path) -> None:
    refused = raystage("evaluate", "damaged", "--checkpoint", newest(broken).name, cwd=broken)
    assert refused.code == 2
    assert "damaged (model.safetensors" in refused.stderr
    assert newest(broken).name not in said(broken, "evaluate", "damaged", "--text", "text.txt").stdout


def test_generate_writes_several_samples_from_any_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--tokens", "12", "--seed", "4", "--temperature", "1")
    shown = said(folder, "generate", "runs/small", "--prompt", "the loss", "--samples", "2", *options).stdout
    assert shown.count("the loss") >= 2
    assert "--- sample 2 of 2" in shown
    monkeypatch.setattr(sys, "stdin", io.StringIO("the loss"))
    trees = json.loads(said(folder, "generate", str(newest(folder)), "--prompt", "-", "--samples", "2", "--json", *options).stdout)
    assert [set(tree) for tree in trees] == [{"prompt", "temperature", "top_k", "top_p", "seed", "tokens", "text"}] * 2
    assert all(f"the loss{tree['text']}" in shown for tree in trees)
    (folder / "prompt.txt").write_text("the loss")
    assert said(folder, "generate", "runs/small", "--prompt-file", "prompt.txt", "--samples", "2", *options).stdout == shown
    small = said(folder, "generate", "runs/small", "--checkpoint", "00000024-1-before-2", "--prompt", "the loss", *options).stdout
    assert small.startswith("the loss")
    both = raystage("generate", "hf", "--prompt", "x", "--prompt-file", "prompt.txt", cwd=folder)
    assert (both.code, "one of them" in both.stderr) == (2, True)
