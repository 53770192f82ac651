"""A `raystage train` in a process of its own, and the processes that do its work."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from raystage.config import Config, dump

TRAIN = ["-c", "from raystage.cli import main; main()", "train"]  # for the Python of the bench


@contextlib.contextmanager
def running(folder: Path, config: Config, command: list[str]) -> Iterator[psutil.Popen]:
    """`command` with the configuration's file; it and all that it started are killed at the end."""
    path = folder / f"{config.name}.yaml"
    path.write_text(dump(config))
    # torchrun shares one store between restarts, in which gloo finds the addresses of ranks that are gone (pytorch issue 135712)
    own = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | own
    with (folder / f"{config.name}.log").open("w") as log:
        process = psutil.Popen([*command, str(path)], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            everything = [*process.children(recursive=True), process] if process.is_running() else []
            for each in everything:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()


def ray_workers(process: psutil.Process) -> list[psutil.Process]:
    """Ray Train's workers below it."""
    return [child for child in process.children(recursive=True) if "RayTrainWorker" in " ".join(child.cmdline())]
