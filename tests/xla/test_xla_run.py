"""A run on two XLA devices is the CPU's run: losses, decisions, checkpoints; each program compiled once, before step 1."""

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch_xla.debug.metrics as met

from raystage.config import Config, ConfigError
from raystage.config.schema import Training
from raystage.data.batch import Batch
from raystage.devices.device import Device, pick_device
from raystage.devices.ranks import Ranks
from raystage.models.spec import ModelSpec
from raystage.runtime.assignment import Assignment
from raystage.runtime.worker import run_rank
from raystage.tracking.records import RunRecords
from raystage.training import compile_ahead, loop
from raystage.training.errors import RehearsalError
from raystage.training.job import Job
from raystage.training.policy import plan_of
from raystage.training.state import assemble
from raystage.training.step import train_step
from tests.gang import gang_of
from tests.training.made_run import SLOPE, assign, configure, corpus_of, losses, train_here

# two raises of the length and both growths: five shapes, three models
PLAN = [
    "pacing.lengths=[8,16,32]",
    "pacing.at=[0.1,0.3,0.5,0.7]",
    "training.micro_batch_tokens=256",
    "checkpoint.keep_last=9",
]

CONSTANT = [*PLAN, "pacing.rule=constant", "pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.at=null"]


def on_xla(config: Config, xla: Device, stop_step: float = math.inf) -> RunRecords:
    assignment = assign(config)
    run_rank(assignment, xla, Ranks(), threads=1, asked=lambda step, position: "stop" if step >= stop_step else None)
    return RunRecords.load(assignment.run_dir)


def settings(*more: str) -> list[str]:
    return [*PLAN, "runtime.device=xla", "training.preflight=true", *more]


def records_of(config: Config, kind: str) -> list[dict[str, Any]]:
    lines = (Path(config.storage) / config.name / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def assert_near(ours: RunRecords, theirs: RunRecords, rel: float = 1e-4) -> None:
    assert [step for step, _ in losses(ours)] == [step for step, _ in losses(theirs)]
    for (step, a), (_, b) in zip(losses(ours), losses(theirs), strict=True):
        assert math.isclose(a, b, rel_tol=rel), step
    for key in ("grad_norm", "second_moment", "probe_loss"):
        for mine, other in zip(ours.train, theirs.train, strict=True):
            if key == "second_moment" and other[key] is None:
                continue  # a CPU reads it now and then, XLA at every boundary: one program for all of them
            assert (mine[key] is None) == (other[key] is None)
            assert mine[key] is None or math.isclose(mine[key], other[key], rel_tol=100 * rel), (key, mine["step"])
    assert [d["kind"] for d in ours.decisions] == [d["kind"] for d in theirs.decisions]
    assert all(d["outcome"] == "applied" for d in ours.decisions)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_run_is_the_cpus_run_and_compiles_each_program_once_before_step_1(folder: Path, xla: Device, family: str) -> None:
    """Llama with a fixed probe, and attention that stops at document borders."""
    more = [f"model.family={family}"] + (["pacing.signal=probe", "data.attend_across_documents=false"] if family == "llama" else [])
    alone = train_here(configure(folder, [f"name=cpu-{family}", *PLAN, *more]))
    config = configure(folder, [f"name=xla-{family}", *settings(*more)])
    records = on_xla(config, xla)
    assert_near(records, alone)
    assert [d["effective_step"] for d in records.decisions] == [d["effective_step"] for d in alone.decisions]
    (compiled,) = records_of(config, "compile")
    assert compiled["step"] == 5, "seen at the first boundary; after it nothing was compiled"
    assert compiled["n_compiled"] == met.counter_value("UncachedCompile")
    assert compiled["fallbacks"] == []


def test_a_stage_shape_is_one_program(folder: Path, xla: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted around each step of the preflight and of the run: the first step of a shape compiles once, no other step does."""
    found: Counter[tuple[int, int, int]] = Counter()

    def counting(machinery: Any, batch: Batch, *rest: Any) -> Any:
        xla.flush()
        before = met.counter_value("UncachedCompile") or 0
        result = train_step(machinery, batch, *rest)
        found[machinery.spec.n_layer, machinery.spec.d_model, batch.inputs_BL.shape[1]] += met.counter_value("UncachedCompile") - before
        return result

    monkeypatch.setattr(compile_ahead, "train_step", counting)
    monkeypatch.setattr(loop, "train_step", lambda *args, n_sequences: counting(*args, n_sequences))
    # of another width than the other tests' models, whose programs are there already
    on_xla(configure(folder, ["name=counted", *settings("model.d_model=48", "pacing.widths=[24,48]")]), xla)
    assert found == {(1, 24, 8): 1, (1, 24, 16): 1, (1, 24, 32): 1, (2, 24, 32): 1, (2, 48, 32): 1}


def test_decisions_by_slope_are_the_cpus(folder: Path, xla: Device) -> None:
    alone = train_here(configure(folder, ["name=cpu-slope", *SLOPE]))
    records = on_xla(configure(folder, ["name=xla-slope", *SLOPE, "runtime.device=xla"]), xla)
    assert [d["kind"] for d in records.decisions] == [d["kind"] for d in alone.decisions]
    for ours, theirs in zip(records.decisions, alone.decisions, strict=True):
        assert abs(ours["effective_step"] - theirs["effective_step"]) <= 5, "within one check"


def test_micro_batches_and_dropout_need_few_programs(folder: Path, xla: Device) -> None:
    """Three micro-batches a step, the last one filled up; dropout draws anew at each step from a seed that is no part of a program."""
    few = [*CONSTANT, "training.batch_tokens=160", "training.micro_batch_tokens=64", "training.duration=20 steps"]
    alone = train_here(configure(folder, ["name=cpu-few", *few]))
    assert_near(on_xla(configure(folder, ["name=xla-few", *few, "runtime.device=xla"]), xla), alone)
    config = configure(folder, ["name=dropped", *few, "runtime.device=xla", "training.preflight=true", "model.dropout=0.5"])
    dropped = on_xla(config, xla)
    assert len(records_of(config, "compile")) == 1
    assert dropped.train[-1]["loss"] > alone.train[-1]["loss"]


def test_memory_that_runs_out_halves_the_micro_batch(folder: Path, xla: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to one sequence on each device, and no further."""

    def within(most_sequences: int) -> None:
        def limited(machinery: Any, batch: Batch, n_tokens: int, ranks: Ranks, device: Device, settings: Training, *rest: Any) -> Any:
            if settings.micro_batch > 32 * most_sequences:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.")
            return train_step(machinery, batch, n_tokens, ranks, device, settings, *rest)

        monkeypatch.setattr(compile_ahead, "train_step", limited)

    within(2)
    config = configure(folder, ["name=halved", *CONSTANT, "runtime.device=xla", "training.preflight=true", "training.duration=3 steps"])
    on_xla(config, xla)
    (found,) = records_of(config, "preflight")
    assert (found["micro_batch_tokens"], found["micro_batch_tokens_asked"]) == (64, 256)
    within(1)
    with pytest.raises(RehearsalError, match="out of memory on CPU x 2: gpt2 of 2 layers x 32 channels"):
        on_xla(dataclasses.replace(config, name="too-large"), xla)


def test_sgd_compiles_nothing_later(folder: Path, xla: Device) -> None:
    plan = ["pacing.widths=null", "pacing.at=[0.1,0.3,0.5]", "training.optimizer.kind=sgd", "training.duration=30 steps"]
    config = configure(folder, ["name=sgd", *settings(*plan)])
    alone = train_here(configure(folder, ["name=cpu-sgd", *PLAN, *plan]))
    assert_near(on_xla(config, xla), alone)
    assert len(records_of(config, "compile")) == 1


def test_a_stopped_run_goes_on_and_a_rehearsal_leaves_no_trace(folder: Path, xla: Device) -> None:
    alone = on_xla(configure(folder, ["name=left-alone", *PLAN, "runtime.device=xla"]), xla)
    config = configure(folder, ["name=stopped", *settings()])
    on_xla(config, xla, stop_step=15)
    records = on_xla(config, xla)
    assert {record["attempt"] for record in records.train} == {1, 2}
    assert losses(records) == losses(alone), "bit by bit"


@pytest.mark.parametrize("first", ["cpu", "xla"])
def test_a_run_changes_its_device_in_the_middle(folder: Path, xla: Device, first: str) -> None:
    alone = train_here(configure(folder, [f"name=cpu-only-{first}", *PLAN]))
    config = configure(folder, [f"name=moved-from-{first}", *PLAN])
    assignment = assign(config)
    devices = [xla, pick_device("cpu")] if first == "xla" else [pick_device("cpu"), xla]
    run_rank(assignment, devices[0], Ranks(), threads=1, asked=lambda step, position: "stop" if step >= 35 else None)
    run_rank(assignment, devices[1], Ranks(), threads=1)
    assert_near(RunRecords.load(assignment.run_dir), alone)


def test_bf16(folder: Path, xla: Device) -> None:
    records = on_xla(configure(folder, ["name=bf16", *CONSTANT, "training.precision=bf16"]), xla)
    alone = train_here(configure(folder, ["name=full", *CONSTANT]))
    ours, theirs = records.train[-1]["loss"], alone.train[-1]["loss"]
    assert not math.isclose(ours, theirs, rel_tol=1e-5)
    assert math.isclose(ours, theirs, rel_tol=2e-2)


def test_workers_that_share_no_slice_average_on_their_hosts(folder: Path) -> None:
    """Two workers with two devices each, five sequences a step: three and two."""
    few = [*CONSTANT, "training.batch_tokens=160", "training.duration=15 steps", "pacing.signal=probe"]
    alone = train_here(configure(folder, ["name=cpu-two", *few]))
    config = configure(folder, ["name=xla-two", *few, "runtime.device=xla", "training.preflight=true"])
    assignment = assign(config)
    with gang_of(2, folder) as gang:
        gang(_train_rank, assignment)
    assert_near(RunRecords.load(assignment.run_dir), alone)
    assert len(records_of(config, "compile")) == 1


def _train_rank(ranks: Ranks, assignment: Assignment) -> None:
    run_rank(assignment, pick_device("xla"), ranks, threads=1)


def test_tied_weights_stay_tied(folder: Path, xla: Device) -> None:
    config = configure(folder, ["name=tied"])
    machinery = assemble(_spec(config), config, xla, Ranks())
    model: Any = machinery.model
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(p.device.type == "xla" for p in model.parameters())


def _spec(config: Config) -> ModelSpec:
    return Job(config, corpus_of(config), Path(), 1).spec(plan_of(config).start)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.strategy=fsdp", r"training\.strategy=fsdp: is torch's own"),
        ("training.optimizer.kind=adafactor", "reads norms to the host in each step"),
    ],
)
def test_what_xla_cannot_do_is_refused(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(folder, ["runtime.device=xla", override])


def test_a_profile_says_what_was_compiled_and_copied(folder: Path, xla: Device) -> None:
    config = configure(folder, ["name=profiled", *CONSTANT, "runtime.device=xla", "training.duration=10 steps", "runtime.profile_steps=3"])
    on_xla(config, xla)
    text = (Path(config.storage) / "profiled" / "profile" / "stage-0.txt").read_text()
    rows = {line[:42].strip(): line[42:].split() for line in text.splitlines()}
    assert rows["compiling"][0] == "0", "all of it before"
    assert int(rows["programs handed to the device"][0]) >= 3
    assert int(rows["copies to the device"][0]) >= 3
