"""The table of a bench run: its conditions, a line for each result, what was missed; and the same as JSON."""

import dataclasses
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from raystage.devices.cores import n_cores
from raystage.devices.device import pick_device
from tests.bench.result import Result


class Table:
    """Prints what is added, and keeps `path` up to date with it."""

    def __init__(self, path: Path, on_cuda: bool = False) -> None:
        self._path, self._results, self._begin_s = path, list[Result](), time.monotonic()
        self._before_s = self._begin_s
        self._conditions = {
            "date": datetime.now(UTC).date().isoformat(),
            "device": torch.cuda.get_device_name() if on_cuda else pick_device("cpu").name,
            "cores": n_cores(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        print(f"{', '.join(f'{key} {value}' for key, value in self._conditions.items())}; medians, lowest to highest")

    def add(self, result: Result) -> None:
        """Its line, with what all took since the one before it."""
        now_s = time.monotonic()
        print(f"{result.line()} [took {now_s - self._before_s:.0f} s]", flush=True)
        self._results.append(result)
        self._before_s = now_s
        tree = {**self._conditions, "results": [dataclasses.asdict(each) for each in self._results]}
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps(tree, indent=1))
        os.replace(partial, self._path)

    def end(self) -> int:
        """Says what was missed. The exit status: 1 where that is a gate."""
        for kind, names in (("gates", [r for r in self._results if r.misses_gate]), ("targets", [r for r in self._results if r.is_missed])):
            said = "; ".join(f"{result.name} ({result.against})" for result in names)
            print(f"{kind} missed: {said or 'none'}")
        print(f"{(time.monotonic() - self._begin_s) / 60:.0f} minutes; docs/benchmarks.md has the profiles")
        return 1 if any(result.misses_gate for result in self._results) else 0
