"""Runs and searches as jobs of a Ray cluster: submitted, followed, stopped with a checkpoint."""

import asyncio
import http.client
import ipaddress
import logging
import os
import re
import secrets
import shlex
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from raystage.config import ConfigError
from raystage.config.redact import holds_secret
from raystage.runtime.engine import EngineError
from raystage.runtime.job_package import JobPackage
from raystage.runtime.secrets_file import SECRETS_FILE

_ANSWER_S = 10.0
STOP_WAIT_S = 120  # a step, a save and its writing; Ray gives a job 3 s unless told
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_PASSED_ON = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")  # addresses, no secrets
_AGAIN_S, _MOST_TRIES = 2.0, 30
_TALKATIVE = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")  # of packages and web sockets
_JOB_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")

Say = Callable[[str], None]


def connect(address: str, insecure: bool) -> Any:
    """A client of the cluster whose dashboard is at `address`.

    Raises ConfigError for an address that is none, that nobody answers, or that others could use as well: one beyond this machine
    without RAY_AUTH_MODE=token, unless `insecure`.
    """
    url = _checked(address)
    if not insecure and not _is_loopback(urlsplit(url).hostname or ""):
        _check_guarded(url, address)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(url)
    except AuthenticationError as error:
        raise ConfigError(f"--address {address}: refused: {_first_line(error)}; set RAY_AUTH_MODE=token and the cluster's token") from None
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ConfigError(f"--address {address}: no Ray dashboard answers there ({_first_line(error)})") from None


def _check_guarded(url: str, address: str) -> None:
    """That this process has a token, and the cluster asks for one; asked without it, which others could read on the way."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise ConfigError(
            f"--address {address}: not this machine, and no token authentication; set RAY_AUTH_MODE=token with the cluster's token, "
            "tunnel to it (ssh -L 8265:localhost:8265, kubectl port-forward), or add --insecure"
        )
    try:
        urllib.request.urlopen(f"{url}/api/jobs/", timeout=_ANSWER_S).close()  # nosec B310  # http or https, see _checked
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConfigError(f"--address {address}: no Ray dashboard answers there ({error})") from None
    raise ConfigError(
        f"--address {address}: not this machine, and it asks nobody for a token; start it with RAY_AUTH_MODE=token, or add --insecure"
    )


def submit(client: Any, package: JobPackage, name: str, secrets_file: str | None, code: bool) -> str:
    """Sends the package and starts it; the job's id. Raises EngineError.

    `secrets_file`: where it lies on the nodes; `code`: takes this raystage along.
    """
    job_id = f"{name}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory() as folder:
        package.write(Path(folder))
        runtime_env: dict[str, Any] = {"working_dir": folder, "env_vars": _environment(secrets_file)}
        if code:
            runtime_env["py_modules"] = [str(Path(__file__).parents[1])]
        try:
            return str(
                client.submit_job(
                    entrypoint=shlex.join(("python", "-m", "raystage", *package.command)),
                    submission_id=job_id,
                    runtime_env=runtime_env,
                    metadata={"raystage.run": name},
                )
            )
        except (RuntimeError, OSError) as error:
            raise EngineError(f"the job was not taken: {_first_line(error)}") from error


def follow(client: Any, job_id: str, write: Callable[[str], None]) -> str:
    """Writes the job's log as it grows, from its beginning, until the job ends; its last status. Raises EngineError."""
    log, n_tries = _Log(write), 0
    while n_tries < _MOST_TRIES:
        n_before = log.n_written
        try:
            asyncio.run(log.take(client.tail_job_logs(job_id)))
            if (status := status_of(client, job_id)) in _ENDED:
                return status
        except (RuntimeError, OSError, aiohttp.ClientError):  # the head is busy, or the connection was cut
            pass
        n_tries = 0 if log.n_written > n_before else n_tries + 1  # a job of days may be cut off often
        time.sleep(_AGAIN_S)
    raise EngineError(f"job {job_id}: its log cannot be followed any more; the job goes on")


class _Log:
    """Writes each piece of a log once, through connections that begin it again."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self.n_written = write, 0

    async def take(self, pieces: AsyncIterator[str]) -> None:
        n_read = 0
        async for piece in pieces:
            fresh = piece[max(0, self.n_written - n_read) :]
            n_read += len(piece)
            if fresh:
                self._write(fresh)
                self.n_written = n_read


def stop(client: Any, job_id: str, say: Say) -> str:
    """Asks the job to stop, and waits for its checkpoint; its last status. Raises ConfigError for one that has ended, EngineError."""
    if (status := status_of(client, job_id)) in _ENDED:
        raise ConfigError(f"job {job_id}: has ended already ({status})")
    try:
        client.stop_job(job_id)
    except (RuntimeError, OSError) as error:
        raise EngineError(f"job {job_id}: cannot be stopped ({_first_line(error)})") from error
    say(f"asked job {job_id} to stop with a checkpoint; it has {STOP_WAIT_S} s")
    deadline_s = time.monotonic() + STOP_WAIT_S + 30
    while (status := status_of(client, job_id)) not in _ENDED and time.monotonic() < deadline_s:
        time.sleep(1.0)
    if status not in _ENDED:
        raise EngineError(f"job {job_id}: still {status} after {STOP_WAIT_S + 30} s; 'raystage jobs follow {job_id}' shows what it does")
    return status


def status_of(client: Any, job_id: str) -> str:
    """Ray's word for it. Raises ConfigError for a job that is not there, EngineError where the cluster does not answer."""
    if not _JOB_ID.match(job_id):
        raise ConfigError(f"{job_id!r}: no name of a job; 'raystage jobs list' has them")
    try:
        return str(client.get_job_status(job_id).value)
    except RuntimeError as error:
        if "404" in str(error):
            raise ConfigError(f"{job_id}: the cluster knows no such job; 'raystage jobs list' has those it knows") from None
        raise EngineError(f"job {job_id}: {_first_line(error)}") from error
    except OSError as error:
        raise EngineError(f"the cluster does not answer ({_first_line(error)})") from error


def jobs_of(client: Any) -> list[Mapping[str, str]]:
    """The jobs that raystage has submitted, the newest first: id, run, status, when it began [s since 1970]. Raises EngineError."""
    try:
        found = [job for job in client.list_jobs() if (job.metadata or {}).get("raystage.run")]
    except (RuntimeError, OSError) as error:
        raise EngineError(f"the cluster does not answer ({_first_line(error)})") from error
    rows = [
        {
            "job": job.submission_id,
            "run": job.metadata["raystage.run"],
            "status": str(job.status.value),
            "began": str((job.start_time or 0) // 1000),
        }
        for job in found
    ]
    return sorted(rows, key=lambda row: int(row["began"]), reverse=True)


def _environment(secrets_file: str | None) -> dict[str, str]:
    """Of the job. Ray shows it to everyone who may look at jobs, so it names secrets and holds none."""
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "RAY_TRAIN_V2_ENABLED": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    for name, value in environment.items():
        if holds_secret(value):
            raise ConfigError(f"{name}: holds a password, which everyone sees who may look at jobs; put it into --secrets-file")
    return environment | ({SECRETS_FILE: secrets_file} if secrets_file else {})


def _checked(address: str) -> str:
    """As a URL. Ray would import a module by the name of any other protocol."""
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address or not address.isprintable() or parts.username or not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+", parts.netloc):
        raise ConfigError(f"--address {address!r}: must be the dashboard of a Ray cluster, like http://127.0.0.1:8265")
    return f"{parts.scheme}://{parts.netloc}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
