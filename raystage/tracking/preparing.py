"""A progress bar for the preparation of data."""

import contextlib
from collections.abc import Callable, Iterator

import rich.console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def preparing(terminal: rich.console.Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields `progress(label, done_bytes, total_bytes)`; each label gets a bar that goes away when it is full."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), DownloadColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)
    tasks: dict[str, TaskID] = {}

    def progress(label: str, done_bytes: int, total_bytes: int | None) -> None:
        if label not in tasks:
            if not tasks:
                bars.start()
            tasks[label] = bars.add_task(label, total=total_bytes)
            if not terminal.is_terminal:
                terminal.print(label, markup=False)
        bars.update(tasks[label], completed=done_bytes, total=total_bytes)
        if bars.finished:
            bars.stop()

    try:
        yield progress
    finally:
        bars.stop()
