"""Growth inside a run: every operator, family and optimizer on the way, the gate, the learning rate afterwards."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from raystage.growth import TrainingTensors
from raystage.training import transition
from raystage.training.checkpoint import CheckpointStore
from raystage.training.checkpoint_files import load_tensors
from raystage.training.checkpoint_writing import CheckpointWriter
from raystage.training.errors import CheckpointError
from tests.training.made_run import configure, losses, train_here

ONE_GROWTH = ["pacing.lengths=null", "training.duration=30 steps", "validation.every_steps=100"]
DEEPER = [*ONE_GROWTH, "pacing.widths=null", "pacing.at=[0.5]"]
WIDER = [*ONE_GROWTH, "pacing.depths=null", "pacing.at=[0.5]"]
BOTH = [*ONE_GROWTH, "pacing.order=[both]", "pacing.at=[0.5]"]
LLAMA = ["model.family=llama", "model.n_kv_head=2", "model.tie_embeddings=false"]
QWEN3 = ["model.family=qwen3", "model.n_kv_head=2", "model.head_dim=16", "model.d_ff=48"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("growth")


@pytest.mark.parametrize(
    ("name", "overrides"),
    {
        "both at once": BOTH,
        "zero layers": [*DEEPER, "pacing.depths=[0, 2]"],
        "interleave": [*DEEPER, "pacing.depths=[2, 3]", "model.n_layer=3", "growth.placement=interleave"],
        "fresh": [*DEEPER, "growth.new_layers=fresh"],
        "llama": [*BOTH, *LLAMA],
        "llama fraction": [
            *WIDER,
            *LLAMA,
            "model.d_model=64",
            "model.n_head=8",
            "model.n_kv_head=4",
            "model.d_ff=96",
            "pacing.widths=[48, 64]",
        ],
        "gpt2 fraction": [*WIDER, "pacing.widths=[24, 32]"],
        "qwen3": [*BOTH, *QWEN3],
        "qwen3 fraction": [*WIDER, *QWEN3, "pacing.widths=[16, 24, 32]", "model.n_head=8", "model.n_kv_head=4", "pacing.at=[0.3, 0.6]"],
        "sgd": [*BOTH, "training.optimizer={kind: sgd, lr: 0.1}"],
        "adafactor": [*BOTH, "training.optimizer={kind: adafactor, lr: 0.01}"],
    }.items(),
)
def test_growth_keeps_the_probe_and_training_goes_on(folder: Path, name: str, overrides: list[str]) -> None:
    records = train_here(configure(folder, [f"name={name.replace(' ', '-')}", *overrides]))
    assert [d["outcome"] for d in records.decisions] == ["applied"] * len(records.decisions)
    for decision in records.decisions:
        assert decision["probe_after"] == pytest.approx(decision["probe_before"], rel=1e-5)
    before = [r["loss"] for r in records.train if r["stage"] == 0]
    assert len(records.train) == 30
    assert sum(r["loss"] for r in records.train[-3:]) / 3 < before[0]


def test_both_at_once_is_one_decision(folder: Path) -> None:
    (decision,) = train_here(configure(folder, ["name=one", *BOTH])).decisions
    assert decision["kind"] == "grow_both"
    assert [(d["n_layer"], d["d_model"]) for d in (decision["from"], decision["to"])] == [(1, 16), (2, 32)]


@pytest.mark.parametrize("family", [[], LLAMA, QWEN3], ids=["gpt2", "llama", "qwen3"])
def test_the_intermediate_size_is_kept_and_is_an_ordinary_model(folder: Path, family: list[str]) -> None:
    config = configure(folder, [f"name=sizes-{len(family)}", *BOTH, *family])
    train_here(config)
    stored = CheckpointStore(folder / "runs" / config.name).all()
    pinned, end = (s for s in stored if s.manifest.pinned)
    assert (pinned.manifest.reason, end.manifest.reason) == ("before-1", "end")
    for checkpoint, width in ((pinned, 16), (end, 32)):
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
        parameters = load_tensors(checkpoint.folder).parameters
        assert model.get_input_embeddings().weight.shape[1] == width
        assert all(torch.equal(p, parameters[name]) for name, p in model.named_parameters())


def test_copied_layers_move_the_loss_and_say_so(folder: Path) -> None:
    (decision,) = train_here(configure(folder, ["name=copy", *DEEPER, "growth.new_layers=copy"])).decisions
    assert decision["outcome"] == "applied"
    assert abs(decision["probe_after"] - decision["probe_before"]) > 1e-4


@pytest.mark.parametrize("kind", ["adamw", "sgd", "adafactor"])
def test_every_optimizer_resumes_where_it_was(folder: Path, kind: str) -> None:
    """Killed between growth and end, in effect: a shorter run that is made longer."""
    settings = [*BOTH, f"training.optimizer={{kind: {kind}, lr: 0.01}}", "training.schedule.kind=constant", "pacing.at=[0.25]"]
    whole = train_here(configure(folder, [f"name={kind}-whole", *settings, "training.duration=40 steps"]))
    again = configure(folder, [f"name={kind}-parts", *settings, "training.duration=40 steps"])
    stops = iter([False, False, False, True])
    train_here(again, stop_requested=lambda: next(stops, True))
    assert losses(train_here(again)) == losses(whole)


def test_the_state_of_another_optimizer_and_of_an_older_raystage_is_named(folder: Path) -> None:
    train_here(configure(folder, ["name=adamw-state", *DEEPER]))
    run = folder / "runs" / "adamw-state"
    other = ["name=other", *DEEPER, "training.optimizer={kind: sgd, lr: 0.1}", f"init_from.path={run}", "init_from.what=state"]
    with pytest.raises(CheckpointError, match=r"holds the state of AdamW, not that of training.optimizer.kind=sgd; use its kind, or"):
        train_here(configure(folder, other))
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.write_text(manifest.read_text().replace('"schema_version": 3', '"schema_version": 1'))
    said: list[str] = []
    assert CheckpointStore(run).latest_good(on_damage=said) is None
    assert all(line.endswith("schema version 1, this raystage reads 3") for line in said)


def test_the_rate_afterwards_is_the_targets_and_the_decision_says_so(folder: Path) -> None:
    overrides = ["name=rates", *BOTH, "growth.peak_lrs=[0.02, 0.005]", "growth.rho_both=0.4", "growth.rewarm_steps=4"]
    records = train_here(configure(folder, overrides))
    (decision,) = records.decisions
    grown_at, warmup = decision["effective_step"], 5
    rates = {r["step"]: r["lr"] for r in records.train}
    assert rates[grown_at - 1] == pytest.approx(0.02)
    assert rates[warmup - 1] == pytest.approx(0.02 * (warmup - 1) / warmup)
    assert [rates[grown_at + i] for i in range(5)] == pytest.approx([0.00125, 0.0025, 0.00375, 0.005, 0.005])
    assert (decision["lr_peak"], decision["rewarm_steps"]) == (0.005, 4)
    assert decision["lr_position"] == pytest.approx(0.4 * (grown_at - 1) / 30)


def test_a_growth_that_moves_the_loss_is_undone_bit_for_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on as one that never planned the growth, and the pinned checkpoint is what it goes on from."""
    never = train_here(
        configure(
            folder,
            ["name=never", *ONE_GROWTH, "pacing.depths=null", "model.d_model=16", "model.n_head=2", "pacing.widths=null", "pacing.at=[]"],
        )
    )
    monkeypatch.setattr(transition, "grow", _broken(transition.grow))
    save = CheckpointWriter.save

    def save_slowly(store: CheckpointWriter, *args: Any) -> Path:
        time.sleep(0.3)  # many steps: training must not change what is being written
        return save(store, *args)

    monkeypatch.setattr(CheckpointWriter, "save", save_slowly)
    records = train_here(configure(folder, ["name=refused", *WIDER]))
    (decision,) = records.decisions
    assert decision["outcome"] == "refused"
    assert abs(decision["probe_after"] - decision["probe_before"]) > 1e-5 * decision["probe_before"]
    assert (decision["lr_peak"], records.train[-1]["d_model"]) == (None, 16)
    assert losses(records) == losses(never)
    pinned, after = (
        s for s in CheckpointStore(folder / "runs" / "refused").all() if s.manifest.counters.step == decision["effective_step"] - 1
    )
    assert (pinned.manifest.pinned, pinned.manifest.position, after.manifest.position) == (True, 0, 1)
    small, kept = load_tensors(pinned.folder), load_tensors(after.folder)
    assert all(torch.equal(kept.parameters[name], p) for name, p in small.parameters.items())
    assert all(torch.equal(kept.states[name][field], t) for name, fields in small.states.items() for field, t in fields.items())


def test_a_growth_to_a_loss_that_is_no_number_is_refused_even_where_it_may_move(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition, "grow", _broken(transition.grow, float("nan")))
    (decision,) = train_here(configure(folder, ["name=nan", *DEEPER, "growth.new_layers=copy"])).decisions
    assert decision["outcome"] == "refused"


def test_a_growth_that_dies_leaves_the_pinned_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*args: Any, **kwargs: Any) -> TrainingTensors:
        raise MemoryError

    monkeypatch.setattr(transition, "grow", out_of_memory)
    with pytest.raises(MemoryError):
        train_here(configure(folder, ["name=died", *WIDER]))
    (pinned,) = (s for s in CheckpointStore(folder / "runs" / "died").all() if s.manifest.pinned)
    assert pinned.manifest.reason == "before-1"


def _broken(honest: Any, factor: float = 1.5) -> Any:
    def grow(*args: Any, **kwargs: Any) -> TrainingTensors:
        grown: TrainingTensors = honest(*args, **kwargs)
        grown.parameters["transformer.wte.weight"].mul_(factor)
        return grown

    return grow
