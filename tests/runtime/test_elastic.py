"""Workers, nodes and controllers come, go and die, on a cluster of several nodes on this machine: the run is the one it would have been."""

import math
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from raystage.config import Config
from raystage.tracking.records import RunRecords
from tests.faults import (
    Machines,
    Trained,
    add_node,
    ask_to_stop,
    at_step,
    drain_node,
    kill_controller,
    kill_train_controller,
    kill_worker,
)
from tests.training.made_run import configure, losses, train_here

pytestmark = pytest.mark.long

STEPS = 500
RUN = [
    f"training.duration={STEPS} steps",
    "training.batch_tokens=2048",
    "training.micro_batch_tokens=256",  # steps of some 20 ms: workers hear of a fault 2 s after its step, and must not be through by then
    "checkpoint.every_steps=25",
    "runtime.engine=ray",
    "runtime.resize_check_s=0.5",
    "validation.every_steps=200",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elastic")


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunRecords:
    """The same run on one rank, without Ray, and left alone."""
    return train_here(run(folder, "alone"))


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(n_cpus=1) as machines:
        yield machines


def run(folder: Path, name: str, *more: str) -> Config:
    return configure(folder, [f"name={name}", *RUN, *more])


def assert_same_run(records: RunRecords, alone: RunRecords, bitwise: bool) -> None:
    """The same tokens in the same order, the same decisions, the same losses, each step once."""
    assert [r["step"] for r in records.train] == list(range(1, STEPS + 1))
    assert [r["batch_crc32"] for r in records.train] == [r["batch_crc32"] for r in alone.train]
    assert [(d["kind"], d["effective_step"]) for d in records.decisions] == [(d["kind"], d["effective_step"]) for d in alone.decisions]
    if bitwise:
        assert losses(records) == losses(alone)
    for (step, ours), (_, theirs) in zip(losses(records), losses(alone), strict=True):
        assert math.isclose(ours, theirs, rel_tol=1e-4), step


def groups(trained: Trained) -> list[tuple[int, int]]:
    """First step and size of every group of workers."""
    return [(r["step"], r["world_size"]) for r in trained.records.starts]


def test_workers_join_leave_and_die_and_the_run_is_the_same(folder: Path, alone: RunRecords, machines: Machines) -> None:
    machines.add_node()
    begin_2 = alone.decisions[0]["effective_step"] - 1
    trained = machines.train(
        run(folder, "elastic", "runtime.stage_workers=[1, {min: 1, max: 2}]"),
        [
            at_step(begin_2 + 20, kill_worker, n_workers=2),
            at_step(begin_2 + 40, drain_node, n_workers=2, deadline_s=60),
            at_step(begin_2 + 60, add_node, n_workers=1),
        ],
    )
    assert trained.finished
    assert [size for _, size in groups(trained)] == [1, 2, 2, 1, 2], trained.said
    assert groups(trained)[1] == (begin_2, 2), "the stage takes its workers with its first step"
    staged, killed, drained, joined = (restart.reached_step - restart.from_step for restart in trained.restarts)
    assert (staged, drained, joined) == (0, 0, 0), "stages for others and nodes that join or drain cost no step"
    assert killed <= 25 + 5, "a death costs no more than the checkpoint interval, and what of it was recorded late"
    assert len(list((folder / "runs" / "elastic" / "ray").glob("driver-*"))) == 4, (
        "after the kill the workers began again under the same fit"
    )
    assert_same_run(trained.records, alone, bitwise=False)
    shown = scraped("elastic")
    assert (shown["ray_raystage_restarts_total"], shown["ray_raystage_workers"], shown["ray_raystage_step"]) == (4, 2, STEPS)
    assert math.isclose(shown["ray_raystage_loss"], trained.records.train[-1]["loss"])
    assert {"ray_raystage_tokens_per_second", "ray_raystage_val_loss", "ray_raystage_decisions_total"} <= set(shown)


def scraped(run: str) -> dict[str, float]:
    """What the agents of Ray's nodes show Prometheus of a run; they hear of the driver's numbers every 10 s."""
    shown: dict[str, float] = {}
    deadline_s = time.monotonic() + 15
    while shown.get("ray_raystage_step") != STEPS and time.monotonic() < deadline_s:
        time.sleep(0.5)
        for node in ray.nodes():
            if node["Alive"]:
                with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as page:
                    text = page.read().decode()
                found = re.findall(rf'^(ray_raystage_\w+){{.*run="{run}".*}} (\S+)$', text, re.MULTILINE)
                shown |= {name: float(value) for name, value in found}
    return shown


def test_controllers_that_die_and_a_stop_leave_the_run_the_same_bit_by_bit(folder: Path, alone: RunRecords, machines: Machines) -> None:
    config = run(folder, "broken", "runtime.workers=1", "runtime.decision_timeout_s=1")
    faults = [at_step(60, kill_controller), at_step(120, kill_train_controller), at_step(STEPS - 150, ask_to_stop)]
    stopped = machines.train(config, faults)
    assert not stopped.finished
    assert [size for _, size in groups(stopped)] == [1, 1], stopped.said
    trained = machines.train(config)
    assert trained.finished
    assert groups(trained)[-1] == (stopped.records.train[-1]["step"], 1), "a stop costs no step"
    assert_same_run(trained.records, alone, bitwise=True)
