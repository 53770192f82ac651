"""Jobs on a cluster of several nodes that asks for a token, tracked by a real MLflow server that asks for a password: `make soak-jobs`.

A run by `ray job submit`, during which a node joins and another leaves; a run by `raystage submit` that is stopped and submitted again.
Both are whole in MLflow; without the token neither is taken. Exit code 1 where that does not hold.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from raystage.config import to_tree
from raystage.runtime.secrets_file import SECRETS_FILE
from raystage.tracking.records import METRICS_FILE, Record, read_records
from raystage.training.checkpoint import CheckpointStore
from tests.cluster.manifests import CLUSTER
from tests.tracking.mlflow_server import PASSWORD, USER, MlflowServer
from tests.tracking.mlflow_whole import is_whole
from tests.training.made_run import configure

STEPS = 6000
RUN = [
    f"training.duration={STEPS} steps",
    "training.batch_tokens=2048",
    "training.micro_batch_tokens=1024",
    "validation.every_steps=1000",
    "checkpoint.every_steps=200",
    "tracking.mlflow=true",
    "runtime={engine: ray, device: cpu, threads_per_worker: 1, workers: {min: 1, max: 2}}",
]
RAYSTAGE = [sys.executable, "-m", "raystage"]
_PATIENCE_S = 300.0


def main() -> None:
    """Runs both jobs on a cluster of their own."""
    with tempfile.TemporaryDirectory(prefix="r") as name, _mlflow(Path(name)) as server, _cluster(Path(name)) as cluster:
        holds = [_refused(cluster), _by_ray(Path(name), cluster, server), _by_raystage(Path(name), cluster, server)]
    print(f"refused without the token, whole by ray job submit, whole by raystage submit: {holds}")
    raise SystemExit(0 if all(holds) else 1)


@contextmanager
def _mlflow(folder: Path) -> Iterator[MlflowServer]:
    os.environ |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    (folder / "secrets").write_text(f"MLFLOW_TRACKING_USERNAME={USER}\nMLFLOW_TRACKING_PASSWORD={PASSWORD}\n")
    server = MlflowServer(folder / "server")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def _cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A head without CPUs and a node with one; the environment of those who may use them."""
    port, dashboard_port = _free_port(), _free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    secret = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")  # jobs get them from the file alone
    base = {key: value for key, value in os.environ.items() if key not in secret}
    ours = base | {"PATH": path, "RAYSTAGE_CLUSTER": str(folder / "c"), "RAY_TEMP": str(folder / "t"), "CPUS": "1"}
    ours |= {"PORT": port, "DASHBOARD_PORT": dashboard_port}
    try:
        subprocess.run([str(CLUSTER / "local" / "start.sh"), "2"], env=ours, check=True, timeout=240, stdout=subprocess.DEVNULL)
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "c" / "token")}
        yield ours | token | {"RAY_ADDRESS": f"127.0.0.2:{port}", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard_port}"}
    finally:
        subprocess.run([str(CLUSTER / "local" / "stop.sh")], env=ours, check=True, timeout=120)


def _refused(cluster: Mapping[str, str]) -> bool:
    """Both commands, by someone without the token, in one line each and with nothing sent."""
    others = {key: value for key, value in cluster.items() if not key.startswith("RAY_AUTH")} | {"RAY_AUTH_MODE": "disabled"}
    places = ["storage=/nowhere/runs", "data.cache_dir=/nowhere/data"]
    own = _said([*RAYSTAGE, "submit", "tune_configs/quickstart.yaml", *places], others)
    rays = _said(["ray", "job", "submit", "--", "true"], others)
    print(f"without the token: raystage submit {own.returncode}: {own.stderr.strip()}")
    print(f"without the token: ray job submit {rays.returncode}: {(rays.stderr + rays.stdout).strip().splitlines()[-1]}")
    return (own.returncode, "refused" in own.stderr, own.stderr.count("\n")) == (2, True, 1) and rays.returncode != 0


def _by_ray(folder: Path, cluster: Mapping[str, str], server: MlflowServer) -> bool:
    config, run_dir = _written(folder, "by-ray", server)
    env_vars = {"RAY_JOB_STOP_WAIT_TIME_S": "120", SECRETS_FILE: str(folder / "secrets")}
    job = ["ray", "job", "submit", "--runtime-env-json", json.dumps({"env_vars": env_vars}), "--", *RAYSTAGE, "train", str(config)]
    with (folder / "by-ray.log").open("w") as log:
        process = subprocess.Popen(job, env=dict(cluster), stdout=log, stderr=log)
    _until(lambda: _last(run_dir, "step") >= 100, process, "the first 100 steps")
    joined = _join(folder, cluster)
    _until(lambda: _last(run_dir, "world_size") == 2, process, "a second worker")
    at_join = _last(run_dir, "step")
    _until(lambda: _last(run_dir, "step") >= at_join + 300, process, "300 steps of two workers")
    os.killpg(joined, signal.SIGTERM)
    _until(lambda: _last(run_dir, "world_size") == 1, process, "one worker again")
    at_leave = _last(run_dir, "step")
    ended = process.wait(timeout=600)
    sizes = [record["world_size"] for record in _train_records(run_dir)]
    print(f"by ray job submit: exit code {ended}; workers joined by step {at_join}, left by step {at_leave}; {sizes.count(2)} steps on two")
    return ended == 0 and _is_complete(run_dir) and is_whole(run_dir, server.uri)


def _by_raystage(folder: Path, cluster: Mapping[str, str], server: MlflowServer) -> bool:
    config, run_dir = _written(folder, "by-raystage", server)
    submit = [*RAYSTAGE, "submit", str(config), "--secrets-file", str(folder / "secrets")]
    sent = _said([*submit, "--detach"], cluster)
    job_id = next(line.split()[1] for line in sent.stdout.splitlines() if line.startswith("job: "))
    _until(lambda: _last(run_dir, "step") >= 500, None, "500 steps")
    begin_s = time.monotonic()
    stopped = _said([*RAYSTAGE, "jobs", "stop", job_id], cluster)
    saved, reached = CheckpointStore(run_dir).all()[-1].manifest.counters.step, _last(run_dir, "step")
    last_line = stopped.stdout.strip().splitlines()[-1]
    print(f"raystage jobs stop: {last_line}; {time.monotonic() - begin_s:.0f} s; step {reached}, checkpoint {saved}")
    again = _said(submit, cluster)
    n_steps = len(_train_records(run_dir))
    print(f"by raystage submit, again: exit code {again.returncode}; {n_steps} records of {STEPS} steps")
    went_on = saved == reached < STEPS == n_steps
    return again.returncode == 0 and went_on and _is_complete(run_dir) and is_whole(run_dir, server.uri)


def _written(folder: Path, name: str, server: MlflowServer) -> tuple[Path, Path]:
    config = configure(folder, [*RUN, f"name={name}", f"tracking.mlflow_uri={server.uri}"])
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(to_tree(config)))
    return path, Path(config.storage) / name


def _join(folder: Path, cluster: Mapping[str, str]) -> int:
    """A node of one CPU more; its process group."""
    node = ["ray", "start", "--block", "--node-ip-address=127.0.0.2", f"--address={cluster['RAY_ADDRESS']}", "--num-cpus=1"]
    log = (folder / "joined.log").open("w")
    more = ["--disable-usage-stats", "--dashboard-agent-listen-port=0"]
    return subprocess.Popen([*node, *more], env=dict(cluster), stdout=log, stderr=log, start_new_session=True).pid


def _until(is_so: Callable[[], bool], job: "subprocess.Popen[bytes] | None", what: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {_PATIENCE_S:.0f} s for {what}"
        assert job is None or job.poll() is None, f"the job ended while it was waited for {what}"
        time.sleep(0.5)


def _is_complete(run_dir: Path) -> bool:
    """Every step is there; the last try at each is the one that counts."""
    return sorted({record["step"] for record in _train_records(run_dir)}) == list(range(1, STEPS + 1))


def _last(run_dir: Path, key: str) -> int:
    records = _train_records(run_dir)
    return int(records[-1][key]) if records else 0


def _train_records(run_dir: Path) -> list[Record]:
    path = run_dir / METRICS_FILE
    return [record for record in read_records(path) if record["kind"] == "train"] if path.is_file() else []


def _said(command: list[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=900)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


if __name__ == "__main__":
    main()
