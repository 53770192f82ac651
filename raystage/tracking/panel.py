"""The live panel of a run, drawn: beside their subjects where there is room, one below the other in a narrow terminal."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.jupyter import JupyterMixin
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raystage.tracking.glyphs import ASCII, UNICODE, Glyphs
from raystage.tracking.goal import Goal
from raystage.tracking.panel_rows import Bar, Row, rows_of
from raystage.tracking.progress import Progress

_MAX_COLUMNS, _NARROW_COLUMNS = 84, 60
_FRAME_COLUMNS, _SUBJECT_COLUMNS, _GAP_COLUMNS = 4, 8, 2


class RunPanel(JupyterMixin):
    """What is known now, in a box at most 84 columns wide; of ASCII alone where the terminal takes no more. In notebooks it is HTML."""

    def __init__(self, progress: Progress, goal: Goal, run_name: str) -> None:
        self._progress, self._goal, self._run_name = progress, goal, run_name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if options.ascii_only else UNICODE
        columns = min(options.max_width, _MAX_COLUMNS)
        rows = rows_of(self._progress, self._goal, glyphs)
        draw = _below if columns < _NARROW_COLUMNS else _beside
        body, title = draw(rows, columns - _FRAME_COLUMNS, glyphs), Text(self._run_name, style="bold")
        box = Panel(body, title=title, title_align="left", border_style="cyan", padding=(0, 1))
        yield Constrain(box, width=columns)


def _beside(rows: Sequence[Row], columns: int, glyphs: Glyphs) -> RenderableType:
    grid = Table.grid(padding=(0, _GAP_COLUMNS, 0, 0), expand=True)
    grid.add_column(style="dim", width=_SUBJECT_COLUMNS, no_wrap=True, overflow="crop")
    grid.add_column(ratio=1, overflow="fold")
    room = columns - _SUBJECT_COLUMNS - _GAP_COLUMNS
    for row in rows:
        if row.bar is not None:
            ends = Table.grid(padding=(0, 1), expand=True)
            ends.add_column(no_wrap=True, overflow="crop")
            ends.add_column(ratio=1, min_width=8)
            ends.add_column(justify="right", no_wrap=True, overflow="crop")
            ends.add_row(Text(row.bar.before, style="bold"), _drawn(row.bar), row.bar.after)
            grid.add_row(row.subject, ends)
        else:
            grid.add_row(row.subject, _lines(_parts(row, glyphs), room, glyphs.dot))
    return grid


def _below(rows: Sequence[Row], columns: int, glyphs: Glyphs) -> RenderableType:
    drawn: list[RenderableType] = []
    for row in rows:
        subject = [Text(row.subject, style="dim")] if row.subject else []
        if row.bar is not None:
            words = [*subject, Text(row.bar.before, style="bold"), Text(row.bar.after)]
            drawn += [_lines(words, columns, " "), Padding(_drawn(row.bar), 0)]  # which ends the line
        else:
            first, *rest = _parts(row, glyphs)
            drawn.append(_lines([Text(" ").join([*subject, first]), *rest], columns, glyphs.dot))
    return Group(*drawn)


def _drawn(bar: Bar) -> ProgressBar:
    style = "yellow" if bar.is_full_news and bar.share >= 1 else "cyan"
    return ProgressBar(total=1.0, completed=bar.share, complete_style=style, finished_style=style)


def _parts(row: Row, glyphs: Glyphs) -> list[Text]:
    strong = [Text(glyphs.clean(row.strong), style="bold red" if row.is_trouble else "bold")] if row.strong else []
    if row.picture:
        strong[0] = strong[0] + Text(f" {row.picture}", style="not bold cyan")
    return [*strong, *(Text(glyphs.clean(part), style="dim" if not row.strong else "") for part in row.parts if part)]


def _lines(parts: Iterable[Text], columns: int, between: str) -> Text:
    """As many parts a line as fit; a part that is longer than a line is broken by rich."""
    return Text("\n").join(Text(between).join(line) for line in _filled(parts, columns, len(between)))


def _filled(parts: Iterable[Text], columns: int, between: int) -> Iterator[list[Text]]:
    line: list[Text] = []
    for part in parts:
        if line and sum(len(shown) + between for shown in line) + len(part) > columns:
            yield line
            line = []
        line.append(part)
    yield line
