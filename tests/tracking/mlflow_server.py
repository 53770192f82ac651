"""A real `mlflow server` with basic authentication, to be killed and started again."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

USER, PASSWORD = "admin", "correct-horse-12"
_START_S = 120.0


class MlflowServer:
    """Its store lies in `folder` and outlives it. `uri` holds no password: clients read it from the environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "default_permission": "READ",
            "database_uri": f"sqlite:///{folder}/auth.db",
            "admin_username": USER,
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            "auth_cache_ttl_seconds": "3600",  # hashing a password for each call takes longer than the call
        }
        (folder / "auth.ini").write_text("\n".join(["[mlflow]", *(f"{key} = {value}" for key, value in settings.items())]))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns once it answers."""
        store = [f"--backend-store-uri=sqlite:///{self._folder}/mlflow.db", f"--artifacts-destination={self._folder}/artifacts"]
        command = [sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth", *store, f"--port={self._port}", "--workers=1"]
        secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test"}
        environment = {**os.environ, **secrets, "MLFLOW_AUTH_CONFIG_PATH": str(self._folder / "auth.ini")}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self._folder)
        deadline_s = time.monotonic() + _START_S
        while not self._answers():
            assert time.monotonic() < deadline_s, (self._folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)

    def kill(self) -> None:
        """As a crash would: all of its processes at once."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False
