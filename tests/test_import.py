"""What importing raystage costs and pulls in, and that the core runs where Ray and MLflow are not installed."""

import json
import pkgutil
import subprocess
import sys

import pytest

import raystage

CORE = ("config", "data", "devices", "evaluation", "growth", "models", "pacing", "storage", "training")
BLOCKED = ("ray", "mlflow")  # rich and typer come with transformers; the import contracts keep them out of ours

_IMPORT_ALONE = """
import sys
before = set(sys.modules)
import raystage
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""

# One process for all packages, because torch takes seconds to import; prints {package: traceback of the import that failed}.
_IMPORT_BLOCKED = """
import importlib, json, pkgutil, sys, traceback

sys.modules.update(dict.fromkeys({blocked}))  # None: as if it were not installed, for imports and for those who only ask
failures = {{}}
for name in {packages}:
    try:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, name + "."):
            importlib.import_module(module.name)
    except ImportError:
        failures[name] = traceback.format_exc()
print(json.dumps(failures))
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def existing_core_packages() -> list[str]:
    present = {module.name for module in pkgutil.iter_modules(raystage.__path__)}
    return [f"raystage.{name}" for name in CORE if name in present]


def test_the_package_itself_imports_nothing() -> None:
    """So that naming it costs nothing, whatever the machine."""
    done = run_python(_IMPORT_ALONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["raystage"]


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """The packages that do not import with Ray and MLflow blocked, and why; `ray` is asked for to see that the block works."""
    done = run_python(_IMPORT_BLOCKED.format(packages=[*existing_core_packages(), "ray"], blocked=BLOCKED))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", existing_core_packages())
def test_core_needs_neither_ray_nor_mlflow(package: str, failures: dict[str, str]) -> None:
    assert package not in failures, failures[package]


def test_the_blocker_blocks(failures: dict[str, str]) -> None:
    assert "import of ray halted" in failures["ray"]


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        pytest.param("raystage.runtime.driver raystage.runtime.ray_engine", "torch transformers mlflow matplotlib", id="driver"),
        pytest.param(
            "raystage.runtime.ray_failure raystage.runtime.ray_trainer raystage.runtime.ray_process_group",
            "torch transformers mlflow matplotlib",
            id="controller-of-ray-train",
        ),
        pytest.param("raystage.runtime.controller_actor", "torch transformers mlflow matplotlib", id="controller"),
        pytest.param("raystage.runtime.run_list raystage.runtime.sync", "torch transformers mlflow matplotlib", id="runs-and-sync"),
        pytest.param("raystage.runtime.view raystage.report.build", "torch transformers mlflow", id="report"),
    ],
)
def test_who_computes_nothing_imports_nothing_heavy(modules: str, without: str) -> None:
    """It would take most of the time to begin."""
    done = run_python(f"import sys, {', '.join(modules.split())}; print(*(name for name in {without.split()} if name in sys.modules))")
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
