"""Text from an exported folder: beyond the context, greedy or sampled, never from the vocabulary's padding."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from raystage.config import ConfigError
from raystage.devices.device import pick_device
from raystage.evaluation.generation import Generator, Sampling
from raystage.evaluation.language_model import open_language_model
from raystage.evaluation.python_lines import share_of_python, tokenizes
from raystage.runtime.export import choose_checkpoint, export
from raystage.training.checkpoint import MANIFEST_FILE, CheckpointStore
from tests.training.made_run import configure, corpus_of, train_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation")
    config = configure(folder, ["name=writer"])
    train_here(config)
    export(choose_checkpoint(folder / "runs" / "writer", None), corpus_of(config).tokenizer(), folder / "model")
    return folder


def generator_of(folder: Path) -> Generator:
    return Generator(open_language_model(folder, pick_device("cpu")))


def test_texts_go_beyond_the_context_and_repeat_with_the_seed(folder: Path) -> None:
    generator = generator_of(folder / "model")
    first = generator.texts("the loss", 3, 100, Sampling(seed=1))
    assert len(first) == 3
    assert len(set(first)) > 1
    assert min(len(text) for text in first) > 100
    assert first == generator.texts("the loss", 3, 100, Sampling(seed=1))
    assert first != generator.texts("the loss", 3, 100, Sampling(seed=2))


def test_greedy_is_the_same_for_every_seed(folder: Path) -> None:
    generator = generator_of(folder / "model")
    assert generator.texts("the", 1, 20, Sampling(temperature=0, seed=1)) == generator.texts(
        "the", 1, 20, Sampling(temperature=1e-40, seed=2)
    )


def test_hot_sampling_never_leaves_the_tokenizer(folder: Path) -> None:
    (text,) = generator_of(folder / "model").texts("", 1, 200, Sampling(temperature=50.0, top_k=0, seed=3))
    assert text


def test_an_intermediate_size_exports_like_the_final_model(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = folder / "runs" / "writer"
    pinned = next(path.name for path in (run / "checkpoints").iterdir() if path.name.endswith("before-2"))
    export(choose_checkpoint(run, pinned), corpus_of(configure(folder, ["name=writer"])).tokenizer(), folder / "small")
    model = AutoModelForCausalLM.from_pretrained(folder / "small")
    assert (model.config.n_layer, model.config.n_embd) == (1, 16)


def test_best_is_the_checkpoint_of_the_lowest_validation_loss_that_is_whole(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "runs" / "writer", tmp_path / "writer")
    first, second, *others = CheckpointStore(run).all()
    for stored, loss in [(first, 1.0), (second, 0.5), *((each, None) for each in others)]:
        (stored.folder / MANIFEST_FILE).write_text(dataclasses.replace(stored.manifest, val_loss=loss).to_json())
    assert choose_checkpoint(run, "best").folder == second.folder
    (second.folder / "model.safetensors").write_bytes(b"")
    assert choose_checkpoint(run, "best").folder == first.folder
    (first.folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="best: no usable checkpoint has a validation loss; writer has 0"):
        choose_checkpoint(run, "best")


def test_what_is_not_there_is_one_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no model there"):
        generator_of(folder)
    with pytest.raises(ConfigError, match="no such checkpoint; writer has 0"):
        choose_checkpoint(folder / "runs" / "writer", "nope")
    with pytest.raises(ConfigError, match="no usable checkpoint"):
        choose_checkpoint(folder, None)
    with pytest.raises(ConfigError, match="more than an exported model"):
        export(
            choose_checkpoint(folder / "runs" / "writer", None), corpus_of(configure(folder, ["name=writer"])).tokenizer(), folder / "runs"
        )


@pytest.mark.parametrize(
    ("line", "passes"),
    [("    return x + 1", True), ("# any words", True), ("f(a, b", False), ("it's a docstring", False), ("x = $", False), ("}", False)],
)
def test_lines_that_read_as_python(line: str, passes: bool) -> None:
    assert tokenizes(line) is passes


def test_the_share_counts_lines_with_something_on_them() -> None:
    assert share_of_python(["x = 1", "", "  ", "'open"]) == 0.5
    assert share_of_python([]) == 0.0
