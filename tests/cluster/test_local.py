"""The cluster on one machine, started and stopped by its scripts: for those with the token, and nothing is left of it."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tests.cluster.manifests import CLUSTER

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What a user of a cluster of two nodes has in the environment."""
    folder = Path(tempfile.mkdtemp(prefix="r"))  # Ray's sockets want short paths, and pytest's folders are long
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    port, dashboard_port = _free_port(), _free_port()
    ours = {
        "PATH": path,
        "RAYSTAGE_CLUSTER": str(folder),
        "RAY_TEMP": str(folder / "t"),
        "PORT": port,
        "DASHBOARD_PORT": dashboard_port,
        "CPUS": "1",
    }
    starting = {**os.environ, **ours}
    try:
        subprocess.run([str(CLUSTER / "local" / "start.sh"), "2"], env=starting, check=True, timeout=240)
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_ADDRESS": f"127.0.0.2:{port}"}
        yield {**starting, **token}
    finally:
        groups = [int(line.split()[0]) for line in (folder / "pids").read_text().splitlines()]
        subprocess.run([str(CLUSTER / "local" / "stop.sh")], env=starting, check=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)
    assert [process for process in psutil.process_iter() if _group(process) in groups] == []


def test_who_has_no_token_stays_outside(environment: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{environment['DASHBOARD_PORT']}/api/jobs/", timeout=30)
    others = {key: value for key, value in environment.items() if not key.startswith("RAY_AUTH")} | {"RAY_AUTH_MODE": "disabled"}
    assert subprocess.run(["ray", "status"], env=others, capture_output=True, timeout=120).returncode != 0
    assert subprocess.run(["ray", "status"], env=environment, capture_output=True, timeout=120).returncode == 0


def test_workers_are_asked_for_while_a_command_runs(environment: dict[str, str]) -> None:
    asked = "{'CPU': 1}: 3 from request_resources()"
    command = [sys.executable, str(CLUSTER / "with_workers.py"), "--each", '{"CPU": 1}', "--at-most", "3", "--"]
    look = [sys.executable, "-c", f"import tests.cluster.test_local as t; raise SystemExit(7 if t.is_said({asked!r}, True) else 1)"]
    assert subprocess.run([*command, *look], env=environment, timeout=200).returncode == 7
    assert is_said(asked, False, environment)


def test_who_has_the_number_of_a_node_that_is_gone_stays(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    (tmp_path / "pids").write_text(f"{stranger.pid} another-boot:123\n")
    try:
        subprocess.run([str(CLUSTER / "local" / "stop.sh")], env={**os.environ, "RAYSTAGE_CLUSTER": str(tmp_path)}, check=True, timeout=60)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def is_said(words: str, wanted: bool, environment: Mapping[str, str] | None = None) -> bool:
    """Whether ``ray status`` comes to hold these words, or to do without them; the autoscaler writes it anew every few seconds."""
    for _ in range(30):
        if (words in subprocess.run(["ray", "status"], env=environment, capture_output=True, text=True, timeout=120).stdout) is wanted:
            return True
        time.sleep(1)
    return False


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else None
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None
