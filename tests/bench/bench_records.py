"""What recording costs the training thread a step: clocks, record, its line in the run folder; with MLflow well, hanging, or off."""

import contextlib
import io
import itertools
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import raystage.data.reader as reader_module
import raystage.runtime.driver as driver_module
import raystage.training.loop as loop_module
from raystage.data.batch import Batch
from raystage.runtime.driver import train
from raystage.runtime.local import LocalEngine
from raystage.runtime.worker import FileRecorder
from raystage.training.run import Run
from tests.bench.cpu_clock import CpuClock
from tests.bench.result import Result
from tests.training.made_run import configure

STEPS, STEP_S = 3000, 2e-3
TARGET_S = 100e-6
RUN = ["pacing.rule=constant", "pacing.lengths=null", "pacing.depths=null", "pacing.widths=null", "pacing.at=null"]
RUN += [f"training.duration={STEPS} steps", f"validation.every_steps={STEPS}", f"checkpoint.every_steps={STEPS}"]


def run() -> Result:
    """The worst of three: no MLflow, MLflow in sqlite, a server that takes connections and never answers."""
    with tempfile.TemporaryDirectory() as name, _hanging_server() as hanging:
        folder = Path(name)
        stores = {"none": None, "sqlite": f"sqlite:///{folder}/mlflow.db", "hanging": hanging}
        spent = {store: _cost_a_step(folder, store, uri) for store, uri in stores.items()}
    ratios = tuple(cpu_s / TARGET_S for cpu_s, _ in spent.values())
    parts = (f"MLflow {store}: {1e6 * cpu_s:.0f} us, {1e6 * wall_s:.0f} of wall" for store, (cpu_s, wall_s) in spent.items())
    detail = ", ".join(parts)
    return Result("records, CPU time a step", "100 us", "x", ratios, "<= 1", detail, "<= 1")


def _cost_a_step(folder: Path, name: str, uri: str | None) -> tuple[float, float]:
    """[s] of CPU time and of wall time in the training thread. Each step sleeps as a device would work, so that other threads run."""
    clock, waited = CpuClock(), _WallClock()
    batch = Batch(*(torch.zeros(8, 16, dtype=torch.int64) for _ in range(2)))
    losses = (torch.tensor(400.0 * n**-0.2, dtype=torch.float64) for n in itertools.count(1))
    norm = torch.tensor(1.0)

    def step(*_: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(STEP_S)
        return next(losses), norm

    tracking = ["tracking.mlflow=false"] if uri is None else ["tracking.mlflow=true", f"tracking.mlflow_uri={uri}"]
    config = configure(folder, [f"name={name}", *RUN, *tracking])
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(reader_module, "read_batch", return_value=batch))
        patches.enter_context(mock.patch.object(loop_module, "train_step", step))
        patches.enter_context(mock.patch("raystage.runtime.wrap_up.wrap_up", return_value=None))
        patches.enter_context(mock.patch.object(driver_module, "_LAST_DELIVERY_S", 1.0))
        for owner, part in ((Run, "stamp"), (FileRecorder, "metrics"), (FileRecorder, "decision")):
            patches.enter_context(mock.patch.object(owner, part, waited.timed(clock.running(getattr(owner, part)))))
        patches.enter_context(contextlib.redirect_stdout(io.StringIO()))  # the run's lines are drawn, and stay out of the table
        train(config, lambda: LocalEngine(config.runtime), lambda *_: None, lambda line: None)
    return clock.spent_s / STEPS, waited.spent_s / STEPS


class _WallClock:
    def __init__(self) -> None:
        self.spent_s = 0.0

    def timed(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **kwargs: Any) -> Any:
            begin_s = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.spent_s += time.perf_counter() - begin_s

        return outer


@contextlib.contextmanager
def _hanging_server() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


if __name__ == "__main__":
    print(run().line())
