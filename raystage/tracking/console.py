"""The run in the terminal: a live panel where there is one, single lines where there is not."""

import contextlib
import time
from collections.abc import Sequence
from typing import IO, Any

import rich.console
from rich.live import Live

from raystage.tracking.glyphs import ASCII, is_plain_locale
from raystage.tracking.goal import Goal
from raystage.tracking.notebook import NotebookView
from raystage.tracking.panel import RunPanel
from raystage.tracking.plain_lines import decision_line, event_line, progress_line
from raystage.tracking.progress import Progress, advance, decided
from raystage.tracking.records import Record


class Terminal(rich.console.Console):
    """ASCII where the locale asks for it. Silent once its reader is gone; rich itself would end the thread and close standard output."""

    def __init__(self, file: IO[str] | None = None, **settings: Any) -> None:
        super().__init__(file=file, highlight=False, **settings)

    def on_broken_pipe(self) -> None:
        self.quiet = True

    @property
    def encoding(self) -> str:
        return "ascii" if is_plain_locale() else super().encoding


_ORDER = {"start": 2, "preflight": 3}  # of events at one step; decisions come second


class Console:
    """A sink that shows progress. Between `start` and `close` it owns the terminal's last lines.

    `after_attempt`: the run's last one before this; what its records tell is history, and makes no lines.
    """

    name = "terminal"

    def __init__(
        self,
        goal: Goal,
        run_name: str,
        terminal: rich.console.Console | None = None,
        line_interval_s: float = 10.0,
        after_attempt: int = 0,
    ) -> None:
        self._goal = goal
        self._run_name = run_name
        self._terminal = terminal or Terminal()
        self._line_interval_s = line_interval_s
        self._last_line_s = time.monotonic()
        self._progress = Progress()
        self._live: Live | NotebookView | None = None
        self._after_attempt, self._has_begun = after_attempt, False

    def start(self) -> None:
        """Draws the panel; where none can be drawn over does nothing."""
        if self._terminal.is_jupyter:
            self._live = NotebookView()
        elif self._terminal.is_interactive:
            # drawn when there is something new, and no more often: each time it is taken off the screen first
            self._live = Live(self._panel(), console=self._terminal, auto_refresh=False)
        if self._live is not None:
            self._live.start()
            self._live.update(self._panel(), refresh=True)

    def close(self) -> None:
        """Leaves the last panel on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def consume(self, records: Sequence[Record], decisions: Sequence[Record]) -> None:
        """Shows new records. A terminal that is gone ends the display, not the run."""
        events = self._fold(records, decisions)
        try:
            if self._live is not None:
                self._live.update(self._panel(), refresh=True)
            elif not self._terminal.is_interactive:
                self._print_lines(events)
        except OSError:
            self._terminal.quiet = True

    def say(self, line: str) -> None:
        """One line between the others."""
        with contextlib.suppress(OSError):
            self._print(line)

    def _fold(self, records: Sequence[Record], decisions: Sequence[Record]) -> list[str]:
        # at one step: what ended before it, the decision, what starts after it
        events: list[tuple[tuple[int, int], str]] = []
        first: tuple[int, int] | None = (-1, 0) if self._has_begun else None
        for record in records:
            self._progress = advance(self._progress, record)
            place = (record["step"], _ORDER.get(record["kind"], 0))
            events.append((place, event_line(record)))
            if first is None and record["kind"] == "start" and record["attempt"] > self._after_attempt:
                first, self._has_begun = place, True
        for decision in decisions:
            self._progress = decided(self._progress, decision)
            events.append(((decision["effective_step"], 1), decision_line(decision)))
        return [line for place, line in sorted(events, key=lambda event: event[0]) if line and first is not None and place >= first]

    def _print_lines(self, events: Sequence[str]) -> None:
        for line in events:
            self._print(line)
        if self._has_begun and self._progress.end is None and time.monotonic() - self._last_line_s >= self._line_interval_s:
            self._last_line_s = time.monotonic()
            self._print(progress_line(self._progress, self._goal.duration))

    def _print(self, line: str) -> None:
        if line:
            is_drawn = self._terminal.is_interactive and self._terminal.encoding.startswith("utf")
            self._terminal.print(line if is_drawn else ASCII.clean(line), markup=False, soft_wrap=True)

    def _panel(self) -> RunPanel:
        return RunPanel(self._progress, self._goal, self._run_name)
