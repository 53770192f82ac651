"""What a job leaves to memory, chosen when its ranks have joined: the same on each."""

import dataclasses
import json
import os
import subprocess  # nosec B404  # this package's own module, no shell
import sys
from typing import Any

from raystage.config import Config, to_tree
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.models.spec import ModelSpec
from raystage.training.errors import RehearsalError
from raystage.training.fit_apart import ANSWER
from raystage.training.job import Job
from raystage.training.memory_fit import GIB, free_bytes, given_bytes, with_choices
from raystage.training.policy import plan_of
from raystage.training.sharding import shards


def fitted(job: Job, device: Device, ranks: Ranks) -> Job:
    """The job with a micro-batch, and the memory in runtime.memory_gib, where its configuration leaves a choice to memory.

    Every rank calls it, and has the same.
    Raises RehearsalError where one sequence takes more than runtime.memory_gib, or than is free where no preflight tries it.
    """
    if not job.config.training.is_fitted:
        return job
    spec, on_cpu = job.spec(plan_of(job.config).shapes()[-1]), device.torch_device.type == "cpu"
    n_sharing = ranks.on_this_host() if on_cpu else 1
    (budget,) = ranks.smallest([given_bytes(job.config) or free_bytes(device) // n_sharing])
    if shards(job.config, ranks):
        return dataclasses.replace(job, config=_by_first(job.config, spec, budget, ranks, on_cpu))
    return dataclasses.replace(job, config=with_choices(job.config, spec, budget, ranks.world_size, on_cpu))


def _by_first(config: Config, spec: ModelSpec, budget: int, ranks: Ranks, on_cpu: bool) -> Config:
    """Chosen by rank 0, since a process more for every rank would take its time and memory from the others."""
    asked = {"config": to_tree(config), "spec": dataclasses.asdict(spec), "more": [budget, ranks.world_size, on_cpu]}
    answer = json.loads(ranks.text_from_first(_apart(asked) if ranks.is_first else ""))
    if answer["refused"]:
        raise RehearsalError(answer["refused"])
    return dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, micro_batch_tokens=answer["micro_batch_tokens"]),
        runtime=dataclasses.replace(config.runtime, memory_gib=budget / GIB),
    )


def _apart(asked: dict[str, Any]) -> str:
    """What `fit_apart` answers, in a process that has joined no ranks: the forecast stands for a group of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "raystage.training.fit_apart"]
    done = subprocess.run(command, input=json.dumps(asked), env=environment, capture_output=True, text=True)  # nosec B603
    for line in done.stdout.splitlines():  # libraries may say something before and after
        if line.startswith(ANSWER):
            return line.removeprefix(ANSWER)
    why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and said nothing"])[-1]
    return json.dumps({"refused": f"the forecast of memory failed ({why}); give training.micro_batch_tokens a number"})
