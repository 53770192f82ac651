"""Progress bars for what takes its time beside training: data prepared, a run fetched from its storage, texts evaluated."""

import contextlib
import time
from collections.abc import Iterator

import rich.console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from raystage.data.progress import Progress as Told

_LINE_INTERVAL_S = 10.0


@contextlib.contextmanager
def progress_bars(terminal: rich.console.Console) -> Iterator[Told]:
    """Yields `progress(label, done, total, unit)`: bytes, or whatever is counted. Each label gets a bar that goes away when it is full.

    Without a terminal that can be drawn over a label is a line, and what takes longer another one every 10 s.
    """
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), _Done(), TimeRemainingColumn(compact=True))
    bars = Progress(*columns, console=terminal, transient=True, disable=not terminal.is_interactive)
    tasks: dict[str, TaskID] = {}
    said_s: dict[str, float] = {}

    def progress(label: str, done: int, total: int | None, unit: str = "bytes") -> None:
        if not terminal.is_interactive:
            now_s = time.monotonic()
            if now_s - said_s.get(label, float("-inf")) >= _LINE_INTERVAL_S:
                terminal.print(f"{label}: {_counted(done, total, unit)}" if label in said_s else label, markup=False, soft_wrap=True)
                said_s[label] = now_s
            return
        if label not in tasks:
            tasks[label] = bars.add_task(label, total=total, unit=unit)
        bars.update(tasks[label], completed=done, total=total)
        if bars.finished:
            bars.stop()
        elif not bars.live.is_started:
            bars.start()

    try:
        yield progress
    finally:
        bars.stop()


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = None if task.total is None else int(task.total)
        return Text(_counted(int(task.completed), total, task.fields["unit"]), style="progress.download")


def _counted(done: int, total: int | None, unit: str) -> str:
    """`1.2 MB of 3.4 GB`, `12 of 40 texts`."""
    if unit == "bytes":
        return decimal(done) + (f" of {decimal(total)}" if total is not None else "")
    return f"{done:,}" + (f" of {total:,}" if total is not None else "") + f" {unit}"
