"""Faults at given steps of a run on a cluster of several nodes on this machine; they read as sentences.

with Machines(1) as machines:
    trained = machines.train(config, [at_step(40, add_node), at_step(80, kill_worker, rank=1), at_step(120, drain_node, deadline_s=30)])
"""

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

from raystage.config import Config
from raystage.runtime.controller_actor import Worker, controller_name
from raystage.runtime.ray_actors import train_workers
from raystage.runtime.ray_engine import RayEngine
from raystage.tracking.records import METRICS_FILE, RunRecords, parse_line
from raystage.training.checkpoint import CheckpointStore
from tests.training.made_run import assign

_POLL_S = 0.02


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that happens once the run's records reach a step, and a number of workers; `what`: its name and its arguments."""

    step: int
    n_workers: int | None
    happen: Callable[["Scene"], None]
    what: str


def at_step(step: int, action: Callable[..., None], n_workers: int | None = None, **how: Any) -> Fault:
    words = ", ".join(f"{name}={value}" for name, value in how.items())
    return Fault(step, n_workers, lambda scene: action(scene, **how), f"{action.__name__}({words})")


@dataclasses.dataclass(frozen=True)
class Restart:
    """A group that began at `from_step` when the one before had come to `reached_step`; `second`: when its first steps were seen."""

    second: float
    from_step: int
    reached_step: int


@dataclasses.dataclass(frozen=True)
class Trained:
    """`said`: the engine's lines, each with its second; `happened`: (second, step in the records, fault)."""

    records: RunRecords
    finished: bool
    said: list[tuple[float, str]]
    happened: list[tuple[float, int, str]]
    restarts: list[Restart]


class Machines:
    """A cluster whose first node, which has the driver, holds `n_cpus` workers; others come and go with one worker each."""

    def __init__(self, n_cpus: int) -> None:
        self._n_cpus = n_cpus
        self.nodes: list[Any] = []

    def __enter__(self) -> "Machines":
        # workers are started by nodes, which know nothing of pytest's import path
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        os.environ.setdefault("RAY_worker_niceness", "0")  # else the tests beside this one take all the time there is
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": self._n_cpus, "include_dashboard": False})
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        return self

    def __exit__(self, *error: object) -> None:
        ray.shutdown()
        self.cluster.shutdown()

    def add_node(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def train(self, config: Config, faults: Sequence[Fault] = ()) -> Trained:
        """Trains in a thread while the faults happen in this one: Ray starts nodes from the main thread alone."""
        assignment, begin_s = assign(config), time.monotonic()
        said: list[tuple[float, str]] = []
        engine = RayEngine(config)
        scene = Scene(self, engine, config, assignment.run_dir, begin_s)
        with ThreadPoolExecutor(1) as pool:
            training = pool.submit(engine.train, assignment, lambda line: said.append((time.monotonic() - begin_s, line)))
            scene.play(faults, training)
            finished = training.result()
        missing = [fault.what for fault in faults[len(scene.happened) :]]
        assert not missing, f"the run was over before {missing}"
        return Trained(RunRecords.load(assignment.run_dir), finished, said, scene.happened, scene.restarts)


class Scene:
    """What a fault can lay its hands on."""

    def __init__(self, machines: Machines, engine: RayEngine, config: Config, run_dir: Path, begin_s: float) -> None:
        self.machines, self.engine, self.config, self.run_dir, self._begin_s = machines, engine, config, run_dir, begin_s
        self.happened: list[tuple[float, int, str]] = []
        self.restarts: list[Restart] = []
        self._attempt = self._reached_step = 0
        self._size_bytes = self._newest_step = self._n_workers = 0

    def step(self) -> int:
        """Of the newest training record."""
        path = self.run_dir / METRICS_FILE
        size_bytes = path.stat().st_size if path.exists() else 0
        if size_bytes != self._size_bytes:
            self._size_bytes = size_bytes
            with path.open("rb") as file:
                file.seek(max(0, size_bytes - 20_000))
                records = [parse_line(line) or {} for line in file.read().split(b"\n")[1:-1]]
            for record in records:
                if record.get("kind") == "train":
                    self._newest_step, self._n_workers = record["step"], record["world_size"]
            self._note_restart([record for record in records if record.get("kind") == "train"])
        return self._newest_step

    def _note_restart(self, train: list[dict[str, Any]]) -> None:
        """Of the newest records; a group shows itself with its first one."""
        if train and train[-1]["attempt"] > self._attempt:
            now, begun = time.monotonic() - self._begin_s, [r["step"] for r in train if r["attempt"] == train[-1]["attempt"]]
            if self._attempt:
                self.restarts.append(Restart(now, begun[0] - 1, self._reached_step))
            self._attempt, self._reached_step = train[-1]["attempt"], 0
        # the next attempt shortens the records before it adds to them
        self._reached_step = max(self._reached_step, self._newest_step)

    def joined(self) -> dict[int, int]:
        """Process ids of the workers that have begun, by rank."""
        try:
            workers: dict[int, Worker] = ray.get(self._actor().workers.remote(), timeout=10)
        except RayError:  # killed, and on its way back
            return {}
        return {rank: worker.process_id for rank, worker in workers.items()}

    def workers(self) -> dict[int, int]:
        """The same; before they have begun, all there are, numbered as they come."""
        return self.joined() or {number: process_id for number, (_, process_id) in enumerate(train_workers(self._actor()))}

    def _actor(self) -> Any:
        return ray.get_actor(controller_name(self.config.name))

    def play(self, faults: Sequence[Fault], training: Future[bool]) -> None:
        """Each fault when its step has come, in order, until training is over."""
        for fault in faults:
            while self.step() < fault.step or fault.n_workers not in (None, self._n_workers):
                if training.done():
                    return
                time.sleep(_POLL_S)
            self.happened.append((time.monotonic() - self._begin_s, self.step(), fault.what))
            fault.happen(self)
        while not training.done():
            self.step()
            time.sleep(_POLL_S)


@contextlib.contextmanager
def held(scene: Scene) -> Iterator[None]:
    """What takes seconds here, the run does not notice: its workers stand still meanwhile."""
    process_ids = list(scene.joined().values())
    _signal(process_ids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(process_ids, signal.SIGCONT)


# -- the faults


def kill_worker(scene: Scene, rank: int = -1) -> None:
    """-1: the last one."""
    _signal_one(scene.workers, rank, signal.SIGKILL)


def freeze_worker(scene: Scene, rank: int = -1) -> None:
    """One that has begun: frozen before, it is given two minutes."""
    _signal_one(scene.joined, rank, signal.SIGSTOP)


def kill_controller(scene: Scene) -> None:
    """raystage's own; Ray starts it again."""
    ray.kill(ray.get_actor(controller_name(scene.config.name)), no_restart=False)


def kill_train_controller(scene: Scene) -> None:
    """Ray Train's, which nobody starts again."""
    address = scene.machines.cluster.address
    for process in psutil.process_iter(["cmdline"]):
        if _is_called(process, "TrainController") and any(address in " ".join(parent.cmdline()) for parent in process.parents()):
            process.kill()


def ask_to_stop(scene: Scene) -> None:
    """As a signal does."""
    scene.engine.request_stop()


def add_node(scene: Scene) -> None:
    with held(scene):
        scene.machines.add_node()


def remove_node(scene: Scene) -> None:
    """The newest, with all that runs on it, at once."""
    scene.machines.cluster.remove_node(scene.machines.nodes.pop(), allow_graceful=False)


def drain_node(scene: Scene, deadline_s: int) -> None:
    """The newest is taken away in so many seconds, which Ray is told."""
    node = scene.machines.nodes.pop()
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", scene.machines.cluster.address]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test", "--deadline-remaining-seconds", str(deadline_s)]
    with held(scene):
        subprocess.run([*command, "--node-id", node.node_id, *reason], check=True, capture_output=True)


def corrupt_newest_checkpoint(scene: Scene) -> None:
    """One byte in the middle of its weights."""
    weights = CheckpointStore(scene.run_dir).all()[-1].folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 0xFF
    weights.write_bytes(bytes(data))


def _is_called(process: psutil.Process, title: str) -> bool:
    """Ray names its processes by the class of the actor that they hold."""
    return title in " ".join(process.info["cmdline"] or ()) and process.username() == psutil.Process().username()


def _signal_one(look: Callable[[], dict[int, int]], rank: int, number: int) -> None:
    while not (workers := look()):
        time.sleep(_POLL_S)  # they are on their way
    _signal([workers[max(workers) if rank < 0 else rank]], number)


def _signal(process_ids: Sequence[int], number: int) -> None:
    for process_id in process_ids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, number)
