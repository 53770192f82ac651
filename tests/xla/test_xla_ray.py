"""A worker of Ray Train with two XLA devices, killed in the middle of a stage."""

import json
from pathlib import Path

from raystage.devices.device import Device
from raystage.tracking.records import RunRecords
from tests.faults import Machines, at_step, kill_worker
from tests.training.made_run import configure, losses
from tests.xla.test_xla_run import PLAN, on_xla

RUN = [*PLAN, "runtime.device=xla", "training.preflight=true", "training.duration=120 steps"]


def test_a_killed_worker_begins_again_with_its_programs_at_hand(folder: Path, xla: Device) -> None:
    alone = on_xla(configure(folder, ["name=left", *RUN]), xla)
    config = configure(folder, ["name=killed", *RUN, "runtime.engine=ray", f"runtime.compile_cache={folder / 'programs'}"])
    with Machines(n_cpus=1) as machines:
        trained = machines.train(config, [at_step(60, kill_worker)])
    assert trained.finished
    assert [r["device"] for r in trained.records.starts] == ["CPU x 2"] * 2
    assert_same(trained.records, alone)
    first, second = _compiled(Path(config.storage) / "killed" / "metrics.jsonl")
    assert first["n_not_loadable"] == 0
    # PJRT's CPU finds programs in the cache and cannot load them; other devices can
    assert second["n_loaded"] + second["n_not_loadable"] == first["n_compiled"], "no program that the first group had not compiled"
    assert second["n_compiled"] == second["n_not_loadable"]


def assert_same(records: RunRecords, alone: RunRecords) -> None:
    assert losses(records) == losses(alone), "bit by bit"
    assert [(d["kind"], d["effective_step"]) for d in records.decisions] == [(d["kind"], d["effective_step"]) for d in alone.decisions]


def _compiled(metrics: Path) -> list[dict[str, int]]:
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [record for record in records if record["kind"] == "compile"]
