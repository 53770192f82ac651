"""The engine on Ray: a worker group of Ray Train, a controller actor, a cluster that is joined or started."""

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raystage.config import ConfigError
from raystage.config.schema import Runtime
from raystage.devices import pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.controller_actor import ActorController, start_controller
from raystage.runtime.engine import EngineError
from raystage.runtime.last_word import last_word, leave_word, ray_storage
from raystage.runtime.worker import Assignment, run_rank
from raystage.storage.faults import StorageError
from raystage.training.checkpoint import CheckpointError
from raystage.training.policy import policy_of
from raystage.training.rehearsal import RehearsalError
from raystage.training.run import TrainingError

_FINISHED, _STOPPED = "finished", "stopped"


class RayEngine:
    """Joins the cluster at `runtime.address` or RAY_ADDRESS, else starts one that ends with this process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._controller: Any = None
        self._stop_asked = threading.Event()
        _connect(runtime)
        self._use_gpu = _wants_gpu(runtime)

    def train(self, assignment: Assignment) -> bool:
        name = f"raystage-controller-{assignment.config.name}-{os.getpid()}"
        self._controller = start_controller(name, policy_of(assignment.config))
        self._remind_of_stop()
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"assignment": assignment, "controller": self._controller},
            torch_config=TorchConfig(backend="nccl" if self._use_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=self._runtime.workers, use_gpu=self._use_gpu),
            run_config=RunConfig(
                name=f"driver-{os.getpid()}",
                **ray_storage(assignment),
                failure_config=FailureConfig(max_failures=self._runtime.max_failures),
            ),
        )
        outcome = _FitThread(trainer).outcome(self._remind_of_stop)
        ray.kill(self._controller)
        if isinstance(outcome, Exception):
            raise EngineError(f"{_cause(outcome)}; the same command goes on from the last checkpoint") from outcome
        said = last_word(assignment)
        if said not in (_FINISHED, _STOPPED):
            raise EngineError(said)
        return said == _FINISHED

    def request_stop(self) -> None:
        self._stop_asked.set()
        self._remind_of_stop()

    def _remind_of_stop(self) -> None:
        """Again and again: an actor that died and came back has forgotten it."""
        if self._stop_asked.is_set() and self._controller is not None:
            self._controller.request_stop.remote()


def _train_worker(settings: dict[str, Any]) -> None:
    """Runs on every worker. How it ended is left as a mark: Ray Train would try a raised error again, and takes
    every return for success. An error that all ranks meet alike would only come again."""
    assignment: Assignment = settings["assignment"]
    ranks = Ranks.of_process()
    try:
        said = _FINISHED if _run_worker(assignment, ranks, settings["controller"]) else _STOPPED
    except (TrainingError, CheckpointError, ConfigError, RehearsalError, StorageError) as error:
        said = str(error)
    if ranks.is_first:
        leave_word(assignment, said)


def _run_worker(assignment: Assignment, ranks: Ranks, controller: Any) -> bool:
    runtime = assignment.config.runtime
    context = ray.train.get_context()
    device = pick_device("cuda" if runtime.device != "cpu" and ray.get_gpu_ids() else "cpu", context.get_local_rank())
    threads = runtime.threads_per_worker or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
    handle: list[ActorController] = []

    def remote(attempt: int) -> ActorController:
        handle.append(ActorController(controller, attempt, runtime.decision_timeout_s))
        return handle[0]

    return run_rank(assignment, device, ranks, threads, remote, lambda: bool(handle) and handle[0].stop_requested)


class _FitThread(threading.Thread):
    """`fit` blocks; in a thread of its own it leaves the main one to signals."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="ray-train-fit", daemon=True)
        self._trainer = trainer
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # whatever it is, the driver raises it again
            self._error = error

    def outcome(self, meanwhile: Callable[[], None]) -> Exception | None:
        self.start()
        while self.is_alive():
            self.join(timeout=0.5)  # a join without timeout would hold signals back
            meanwhile()
        return self._error


def _connect(runtime: Runtime) -> None:
    address = runtime.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"runtime.address={address}: no Ray cluster answers there ({str(error).splitlines()[0]})") from None
        available = int(ray.cluster_resources().get("CPU", 0))
        if runtime.workers > available:
            raise ConfigError(f"runtime.workers={runtime.workers}: the cluster at {address} has {available} CPUs, one is needed a worker")
    else:
        # Ray runs workers at the lowest priority, where any other process halves their speed; they are the job here
        os.environ.setdefault("RAY_worker_niceness", "0")
        # more workers than cores is slow but allowed on one's own machine
        ray.init(address="local", num_cpus=max(os.cpu_count() or 1, runtime.workers), include_dashboard=False, **quiet)


def _wants_gpu(runtime: Runtime) -> bool:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if runtime.device == "cuda" and gpus < runtime.workers:
        raise ConfigError(f"runtime.workers={runtime.workers}: runtime.device=cuda needs a GPU a worker, the cluster has {gpus}")
    return runtime.device != "cpu" and gpus >= runtime.workers


def _cause(error: Exception) -> str:
    """The last line of the innermost error that a worker raised."""
    failures = getattr(error, "worker_failures", None)
    inner = next(iter(failures.values())) if failures else error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[-1] if lines else type(inner).__name__
