"""init_from: another run's state or weights, a Hugging Face folder, and what does not fit."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from raystage.config import Config
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.training.checkpoint import CheckpointStore
from raystage.training.errors import CheckpointError
from raystage.training.job import Job
from raystage.training.start import start_state
from raystage.training.state import TrainState
from tests.training.made_run import assign, configure, corpus_of, losses, train_here

FLAT = ["pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.rule=slope", "pacing.at=null"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    train_here(configure(folder, ["name=source", "training.duration=40 steps"]))
    return folder


def start_with_records(config: Config) -> tuple[TrainState, list[dict[str, Any]]]:
    assignment = assign(config)
    return start_state(Job(config, corpus_of(config), assignment.run_dir, 1), None, pick_device("cpu"), Ranks())


def start(config: Config) -> TrainState:
    return start_with_records(config)[0]


def test_the_state_of_another_run_goes_on_where_that_run_ended(folder: Path) -> None:
    source = folder / "runs" / "source"
    state = start(configure(folder, ["name=more", f"init_from.path={source}", "init_from.what=state"]))
    assert state.counters.step == 40
    assert (state.shape.n_layer, state.position) == (2, 3)
    assert len(state.machinery.optimizer.state) == len(list(state.machinery.model.parameters()))
    records = train_here(configure(folder, ["name=more", f"init_from.path={source}", "init_from.what=state"]))
    assert [step for step, _ in losses(records)] == list(range(41, 61))


def test_what_was_the_other_runs_own_stays_behind(folder: Path) -> None:
    """Held by hand, rolled back, ended early: none of it binds the run that goes on; its decisions are told without their commands."""
    store = CheckpointStore(folder / "runs" / "source")
    (end,) = [stored for stored in store.all() if stored.manifest.reason == "end"]
    shutil.copytree(end.folder, folder / "bound")
    counters = dataclasses.replace(end.manifest.counters, held=True, n_rollbacks=2, duration_share=0.5, tokens_undone=512)
    decisions = tuple({**record, "command_id": "c-1", "restored_step": 10} for record in end.manifest.decisions)
    bound = dataclasses.replace(end.manifest, counters=counters, decisions=decisions)
    (folder / "bound" / "manifest.json").write_text(bound.to_json())
    config = configure(folder, ["name=unbound", f"init_from.path={folder / 'bound'}", "init_from.what=state"])
    state, told = start_with_records(config)
    assert (state.counters.held, state.counters.n_rollbacks, state.counters.duration_share) == (False, 0, 1.0)
    assert (state.counters.step, state.counters.tokens_undone) == (40, 512), "what was spent and unlearned is still so"
    assert [record["command_id"] for record in told] == [None] * 3
    assert not any("restored_step" in record for record in told)
    assert [record["effective_step"] for record in told] == [d["effective_step"] for d in end.manifest.decisions]


def test_the_pinned_smaller_model_can_be_started_from(folder: Path) -> None:
    pinned = next((folder / "runs" / "source" / "checkpoints").glob("*before-2"))
    state = start(configure(folder, ["name=small-again", f"init_from.path={pinned}"]))
    assert state.counters.step == 0
    assert (state.shape.n_layer, state.shape.d_model) == (1, 16)


def test_a_hugging_face_folder_gives_its_weights_and_fresh_rows_pad_the_vocabulary(folder: Path) -> None:
    saved = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=4))
    saved.save_pretrained(folder / "hf")
    state = start(configure(folder, ["name=from-hf", f"init_from.path={folder / 'hf'}", *FLAT]))
    weight = dict(state.machinery.model.named_parameters())["transformer.wte.weight"]
    assert weight.shape[0] == 320
    assert torch.equal(weight[:300], saved.transformer.wte.weight)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init_from.path={folder}/nowhere"], "no usable checkpoint"),
        (["init_from.path={folder}/runs/source", *FLAT, "model.d_model=64"], "first stage's model"),
        (["init_from.path={folder}/runs/source", *FLAT, "model.n_layer=3"], "its tensors are not those of 3 gpt2 layers"),
        (["init_from.path={folder}/runs/source", "init_from.what=state", "data.validation_fraction=0.2"], "another corpus"),
        (["init_from.path={folder}/runs/source", "init_from.what=state", *FLAT, "model.n_layer=3"], "none of this plan's"),
        (["init_from.path={folder}/runs/source", *FLAT, "model.n_head=2"], "its attention has 4 heads, the first stage's model 2"),
        (["init_from.path={folder}/runs/source", "init_from.what=state", "seed=9"], "ordered its data, the configuration has seed=9"),
        (
            ["init_from.path={folder}/runs/source", "init_from.what=state", "model.tie_embeddings=false"],
            "holds a model of",
        ),
        (["init_from.path={folder}/runs/source", "init_from.what=state", "training.optimizer.kind=sgd"], "not that of .*kind=sgd"),
    ],
)
def test_what_does_not_fit_is_one_line(folder: Path, overrides: list[str], message: str) -> None:
    config = configure(folder, ["name=refused", *(o.format(folder=folder) for o in overrides)])
    with pytest.raises(CheckpointError, match=message) as caught:
        start(config)
    assert "\n" not in str(caught.value)
