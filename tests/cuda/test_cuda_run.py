"""Runs on a GPU: the CPU's losses and decisions, bf16, compiled code, resumes, checkpoints that change the device, Ray."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raystage.config import Config, dump
from raystage.devices.device import Device, pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.worker import run_rank
from raystage.tracking.records import RunRecords
from raystage.training import loop
from raystage.training.checkpoint import CheckpointStore
from raystage.training.checkpoint_files import load_tensors
from tests.cuda.conftest import DEVICE
from tests.training.made_run import SLOPE, assign, configure, losses, train_here

pytestmark = pytest.mark.cuda

FAMILIES = {"gpt2": [], "llama": ["model.family=llama", "model.n_kv_head=2", "model.tie_embeddings=false"]}
ON = f"runtime.device={DEVICE}"


@pytest.fixture
def exact(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of float32 matrices in float32: runs take TF32 on a GPU, which is right to three digits."""
    prepare = device.prepare

    def prepare_exactly(threads: int, deterministic: bool) -> None:
        prepare(threads, deterministic)
        torch.set_float32_matmul_precision("highest")

    monkeypatch.setattr(device, "prepare", prepare_exactly)


def train_on(device: Device, config: Config, stop_step: float = math.inf) -> RunRecords:
    assignment = assign(config)
    run_rank(assignment, device, Ranks(), threads=1, asked=lambda step, position: "stop" if step >= stop_step else None)
    return RunRecords.load(assignment.run_dir)


def assert_near(ours: RunRecords, theirs: RunRecords, rel: float) -> None:
    assert [step for step, _ in losses(ours)] == [step for step, _ in losses(theirs)]
    for (step, a), (_, b) in zip(losses(ours), losses(theirs), strict=True):
        assert math.isclose(a, b, rel_tol=rel), (step, a, b)
    assert [(d["kind"], d["outcome"]) for d in ours.decisions] == [(d["kind"], d["outcome"]) for d in theirs.decisions]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_is_the_cpus_run(folder: Path, device: Device, family: str, exact: None) -> None:
    """With a length raise and both growths."""
    alone = train_here(configure(folder, [f"name=cpu-{family}", *FAMILIES[family]]))
    records = train_on(device, configure(folder, [f"name=cuda-{family}", ON, "training.preflight=true", *FAMILIES[family]]))
    assert_near(records, alone, rel=1e-3)
    assert [d["outcome"] for d in records.decisions] == ["applied"] * 3
    first = [step for step, _ in losses(alone) if step <= records.decisions[0]["effective_step"]]
    for (_, a), (_, b) in zip(losses(records)[: len(first)], losses(alone), strict=False):
        assert math.isclose(a, b, rel_tol=1e-4), "over the first stage"


def test_decisions_by_slope_are_the_cpus(folder: Path, device: Device, exact: None) -> None:
    alone = train_here(configure(folder, ["name=cpu-slope", *SLOPE]))
    records = train_on(device, configure(folder, ["name=cuda-slope", ON, *SLOPE]))
    assert [d["kind"] for d in records.decisions] == [d["kind"] for d in alone.decisions]
    for ours, theirs in zip(records.decisions, alone.decisions, strict=True):
        assert abs(ours["effective_step"] - theirs["effective_step"]) <= 5, "within one check"


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_keeps_its_master_state_in_float32(folder: Path, device: Device, family: str) -> None:
    more = [ON, "training.precision=bf16", *FAMILIES[family]]
    config = configure(folder, [f"name=bf16-{family}", *more])
    records = train_on(device, config)
    full = train_on(device, configure(folder, [f"name=full-{family}", ON, *FAMILIES[family]]))
    ours, theirs = records.train[-1]["loss"], full.train[-1]["loss"]
    assert ours != theirs
    assert math.isclose(ours, theirs, rel_tol=3e-2)
    assert [d["outcome"] for d in records.decisions] == ["applied"] * 3
    tensors = load_tensors(CheckpointStore(Path(config.storage) / config.name).all()[-1].folder)
    assert {p.dtype for p in tensors.parameters.values()} == {torch.float32}
    assert all(moment.dtype == torch.float32 for state in tensors.states.values() for moment in state.values())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_compiled_code_is_the_same_run(folder: Path, device: Device, precision: str, exact: None) -> None:
    settings = [ON, f"training.precision={precision}", "training.preflight=true", "training.duration=30 steps"]
    eager = train_on(device, configure(folder, [f"name=eager-{precision}", *settings]))
    compiled = train_on(device, configure(folder, [f"name=compiled-{precision}", *settings, "training.compile=true"]))
    assert_near(compiled, eager, rel=1e-3 if precision == "float32" else 3e-2)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_resumed_run_is_the_run_left_alone(folder: Path, device: Device, deterministic: bool) -> None:
    settings = [ON, f"runtime.deterministic={deterministic}".lower(), "training.precision=bf16", "model.dropout=0.1"]
    alone = train_on(device, configure(folder, [f"name=alone-{deterministic}", *settings]))
    config = configure(folder, [f"name=stopped-{deterministic}", *settings])
    train_on(device, config, stop_step=20)
    train_on(device, config, stop_step=45)
    records = train_on(device, config)
    assert {record["attempt"] for record in records.train} == {1, 2, 3}
    if deterministic:
        assert losses(records) == losses(alone), "bit by bit"
    else:
        assert_near(records, alone, rel=1e-2)


@pytest.mark.parametrize("first", ["cpu", DEVICE])
def test_a_run_changes_its_device_in_the_middle(folder: Path, device: Device, first: str, exact: None) -> None:
    alone = train_here(configure(folder, [f"name=only-cpu-{first}"]))
    config = configure(folder, [f"name=moved-from-{first}"])
    devices = [pick_device("cpu"), device] if first == "cpu" else [device, pick_device("cpu")]
    train_on(devices[0], config, stop_step=35)
    assert_near(train_on(devices[1], config), alone, rel=1e-3)


def test_no_step_waits_for_the_device(folder: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA itself raises where a step would wait; boundaries may."""
    honest = loop.train_step

    def watched(*args: Any, **named: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return honest(*args, **named)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "train_step", watched)
    records = train_on(gpu, configure(folder, ["name=watched", ON, "training.precision=bf16"]))
    assert len(records.train) == 60


def test_a_profile_names_the_parts_of_a_step_in_nvtx(folder: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[str] = []
    push = torch.cuda.nvtx.range_push

    def watched(name: str) -> int:
        pushed.append(name)
        return push(name)

    monkeypatch.setattr(torch.cuda.nvtx, "range_push", watched)
    config = configure(folder, ["name=profiled", ON, "runtime.profile_steps=3", "training.precision=bf16"])
    train_on(gpu, config)
    assert {"forward", "backward", "update"} <= set(pushed)
    table = (Path(config.storage) / "profiled" / "profile" / "stage-0.txt").read_text()
    assert "CUDA" in table, "time of the device, not of the host alone"
    trace = (Path(config.storage) / "profiled" / "profile" / "stage-0.json").read_text()
    assert "flash" in trace, "attention in half precision is the flash kernel"


def test_a_ray_worker_takes_a_gpu(folder: Path, gpu: Device) -> None:
    """The command itself, with a worker of Ray Train in a process group of nccl."""
    pytest.importorskip("ray", reason="the local engine alone can be tried here")
    config = configure(folder, ["name=on-ray", ON, "runtime.engine=ray", "training.duration=30 steps"])
    (folder / "on-ray.yaml").write_text(dump(config))
    command = [sys.executable, "-c", "from raystage.cli import main; main()", "train", str(folder / "on-ray.yaml")]
    ran = subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    alone = train_on(gpu, configure(folder, ["name=not-on-ray", ON, "training.duration=30 steps"]))
    assert_near(RunRecords.load(Path(config.storage) / config.name), alone, rel=1e-2)
