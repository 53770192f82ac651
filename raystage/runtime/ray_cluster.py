"""The Ray cluster that a run joins or starts."""

import logging
import os
import secrets
from pathlib import Path
from typing import Any

import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.worker import get_dashboard_url
from ray.exceptions import AuthenticationError

from raystage.config import Config, ConfigError
from raystage.config.ray_address import LOCAL, check_address
from raystage.devices.cores import n_cores
from raystage.training.worker_range import all_ranges

_TOKEN = "RAY_AUTH_TOKEN"
_TOLD_OTHERWISE = (_TOKEN, "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")


def connect(config: Config) -> None:
    """Joins the cluster at `runtime.address` or RAY_ADDRESS, else starts one on this machine. Raises ConfigError."""
    # read by Ray Train's controller: a death is seen sooner than within 2 s; a node that leaves is our own watch's matter
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # a group starts where there is room for it: where that is gone, with a node, another one is made soon
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    if ray.is_initialized():
        return  # as part of a program that has joined one
    address = cluster_address(config)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
            raise ConfigError(
                f"runtime.address={address}: no Ray cluster answers there, or it refuses the token ({str(error).splitlines()[0]})"
            ) from None
    else:
        # Ray runs workers at the lowest priority, where any other process halves their speed; they are the job here
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Ray starts a worker a core ahead of need, of a kind that no run asks for: each takes start time, and then 1% of a core for ever
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        _guard_with_token()
        # more workers than cores is slow but allowed on one's own machine
        n_workers = max(workers.high for workers in all_ranges(config))
        ray.init(address=LOCAL, num_cpus=max(n_cores(), n_workers), include_dashboard=False, **quiet)


def cluster_address(config: Config) -> str | None:
    """Of the cluster to join, by `runtime.address` or RAY_ADDRESS; None where one is started. Raises ConfigError for nonsense."""
    key = "RAY_ADDRESS" if config.runtime.address is None else "runtime.address"
    address = config.runtime.address or os.environ.get("RAY_ADDRESS") or LOCAL
    check_address(address, key)
    return None if address == LOCAL else address


def has_token_authentication() -> bool:
    """Whether the Ray that this process belongs to, or would start, asks for a token. Ray 2.60 says so in no public API."""
    if not ray.is_initialized():
        return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    return bool(is_token_auth_enabled())


def dashboard_address() -> str | None:
    """HOST:PORT of the dashboard of the cluster that this process has joined; None where it has none. In no public API either."""
    return get_dashboard_url() or None


def _guard_with_token() -> None:
    """A cluster of one's own takes calls with its token alone: Ray listens on every network of this machine, whatever address it is given.

    Ray 2.60 does so by itself, with a token that it leaves in the home folder; one that is gone with this process is enough, unless
    there is that one already, which 'ray status' in another terminal uses. What the user has set stays.
    """
    if not any(name in os.environ for name in _TOLD_OTHERWISE) and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ[_TOKEN] = secrets.token_hex(32)
