"""Who computes nothing imports no torch: it would take most of the time that the driver, or a command that reads, takes to begin."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "mlflow", "matplotlib")


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param("raystage.runtime.driver raystage.runtime.ray_engine", id="driver"),
        pytest.param("raystage.runtime.ray_failure raystage.runtime.ray_trainer raystage.runtime.ray_process_group", id="ray-train"),
        pytest.param("raystage.runtime.controller_actor", id="controller"),
        pytest.param("raystage.runtime.run_list raystage.runtime.view raystage.runtime.sync", id="commands-that-read"),
    ],
)
def test_no_torch(modules: str) -> None:
    code = f"import sys, {', '.join(modules.split())}; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
