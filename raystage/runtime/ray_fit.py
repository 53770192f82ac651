"""One group of workers: a fit of Ray Train in a thread, from its start to its end."""

import os
import threading
from typing import Any

from ray.exceptions import RayActorError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.backend import BackendConfig

from raystage.config import ConfigError
from raystage.runtime.assignment import Assignment
from raystage.runtime.engine import FatalError
from raystage.runtime.group import Group
from raystage.runtime.hardware import Hardware
from raystage.runtime.ray_failure import AnswerFailures, GroupEnd, GroupFailedError, end_of, last_line
from raystage.runtime.ray_process_group import ProcessGroupConfig, pjrt_settings
from raystage.runtime.ray_spare import imports_first
from raystage.runtime.ray_storage import ray_storage
from raystage.runtime.ray_trainer import LeanTrainer
from raystage.runtime.secrets_file import load_secrets
from raystage.storage.faults import StorageError
from raystage.training.errors import CheckpointError, FencedError, RehearsalError, TrainingError
from raystage.training.ports import Ending


class Fit(threading.Thread):
    """`fit` blocks; in a thread of its own it leaves the main one to signals and to the watch."""

    def __init__(self, assignment: Assignment, group: Group, controller: Any, backend: BackendConfig) -> None:
        super().__init__(name="ray-train-fit", daemon=True)
        self._result: GroupEnd | None = None
        runtime = assignment.config.runtime
        in_place = runtime.max_failures > 0
        n_in_place = -1 if in_place else 0
        hardware = group.hardware
        warm = runtime.spare_after_s is not None and hardware.keeps_spares
        self._trainer = LeanTrainer(
            _train_worker,
            train_loop_config={"assignment": assignment, "group": group, "controller": controller},
            backend_config=backend,
            scaling_config=scaling_of(hardware, group.n_workers),
            run_config=RunConfig(
                name=f"driver-{os.getpid()}-{group.number}",
                **ray_storage(assignment),
                worker_runtime_env={"env_vars": {**hardware.variables, **(imports_first() if warm else {})}},
                # what AnswerFailures does not let pass is the engine's to answer, who may find other nodes by then
                failure_config=FailureConfig(
                    max_failures=n_in_place,
                    max_preemption_failures=n_in_place,  # type: ignore[call-arg]
                    controller_failure_limit=0,
                ),
                callbacks=[AnswerFailures(controller, group)] if in_place else [],  # type: ignore[list-item]
            ),
        )

    def run(self) -> None:
        try:
            ending = self._trainer.fit().return_value  # type: ignore[attr-defined]
            self._result = GroupEnd(ending, error="the workers ended without a word")
        except ControllerError as error:
            failure = error.controller_failure
            self._result = failure.args[0] if isinstance(failure, GroupFailedError) else GroupEnd(error=last_line(failure))
        except WorkerGroupError as error:
            self._result = end_of(error.worker_failures)
        except RayActorError:
            self._result = GroupEnd(error="Ray Train's controller is gone: killed, or out of memory")
        except Exception as error:  # whatever it is, the engine answers it
            self._result = GroupEnd(error=last_line(error))

    def end(self) -> GroupEnd:
        """How it ended, once it has."""
        assert self._result is not None
        return self._result


def scaling_of(hardware: Hardware, n_workers: int) -> ScalingConfig:
    """What Ray Train is to place the workers on."""
    return ScalingConfig(  # type: ignore[call-arg]  # mypy sees that of Ray Train v1
        num_workers=n_workers,
        use_gpu=hardware.device == "cuda",
        use_tpu=hardware.has_tpus,
        topology=hardware.topology,
        accelerator_type=hardware.accelerator_type,
        resources_per_worker=dict(hardware.need),
    )


def backend_of(hardware: Hardware) -> BackendConfig:
    """How the workers' processes become a group."""
    if hardware.device == "cuda":
        from ray.train.torch import TorchConfig  # imports torch, here and in Ray Train's controller

        return TorchConfig(backend="nccl")
    return ProcessGroupConfig(pjrt_settings(hardware.has_tpus) if hardware.device == "xla" else {})


def _train_worker(settings: dict[str, Any]) -> Ending:
    """Runs on every worker; returns how it ended. Whatever it raises ends the others too, which may wait for it."""
    from raystage.runtime.ray_worker import run_worker  # imports torch, which the driver does without

    try:
        load_secrets()
        return run_worker(settings["assignment"], settings["group"], settings["controller"])
    except (TrainingError, CheckpointError, ConfigError, RehearsalError, StorageError, FencedError) as error:
        raise FatalError(str(error)) from None
