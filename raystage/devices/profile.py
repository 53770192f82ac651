"""Where the time of some steps goes, as torch's profiler sees it."""

from pathlib import Path
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity

_ROWS = 25


class Profile(Protocol):
    """Of what happens between `start` and `stop`; the device has done it when `stop` returns."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def text(self) -> str:
        """A table for people."""
        ...

    def save_trace(self, path: Path) -> None:
        """For a viewer of traces (Perfetto, chrome://tracing), where there is one to save."""
        ...


class TorchProfile:
    def __init__(self, on_cuda: bool) -> None:
        self._on_cuda = on_cuda
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
        self._profiler = torch.profiler.profile(activities=activities)

    def start(self) -> None:
        self._profiler.start()

    def stop(self) -> None:
        if self._on_cuda:
            torch.cuda.synchronize()
        self._profiler.stop()

    def text(self) -> str:
        by = "self_cuda_time_total" if self._on_cuda else "self_cpu_time_total"
        return str(self._profiler.key_averages().table(sort_by=by, row_limit=_ROWS, max_name_column_width=60))

    def save_trace(self, path: Path) -> None:
        self._profiler.export_chrome_trace(str(path))
