"""The Ray cluster that a run joins or starts."""

import logging
import os
from typing import Any

import ray

from raystage.config import Config, ConfigError
from raystage.training.worker_range import all_ranges


def connect(config: Config) -> None:
    """Joins the cluster at `runtime.address` or RAY_ADDRESS, else starts one on this machine. Raises ConfigError."""
    # read by Ray Train's controller: a death is seen sooner than within 2 s; a node that leaves is our own watch's matter
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # a group starts where there is room for it: where that is gone, with a node, another one is made soon
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    address = config.runtime.address or os.environ.get("RAY_ADDRESS")
    if ray.is_initialized():
        return  # as part of a program that has joined one
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"runtime.address={address}: no Ray cluster answers there ({str(error).splitlines()[0]})") from None
    else:
        # Ray runs workers at the lowest priority, where any other process halves their speed; they are the job here
        os.environ.setdefault("RAY_worker_niceness", "0")
        # more workers than cores is slow but allowed on one's own machine
        n_workers = max(workers.high for workers in all_ranges(config))
        ray.init(address="local", num_cpus=max(os.cpu_count() or 1, n_workers), include_dashboard=False, **quiet)
