"""The live panel of a run: progress in, a rich renderable out. Readable from 60 columns."""

from itertools import pairwise

from rich.console import RenderableType
from rich.constrain import Constrain
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raystage.config.duration import Duration
from raystage.tracking import units
from raystage.tracking.decision_text import label, reason
from raystage.tracking.plain_lines import number, workers
from raystage.tracking.progress import Progress, nearness, share_done, time_left_s
from raystage.tracking.records import Record

_BARS = "▁▂▃▄▅▆▇█"
_SPARK_COLUMNS = 24
_MAX_COLUMNS = 84


def panel(progress: Progress, duration: Duration, run_name: str) -> RenderableType:
    """What is known now, in a box at most 84 columns wide."""
    newest = progress.newest
    body: RenderableType = Text(_waiting(progress), style="dim") if newest is None else _body(progress, newest, duration)
    box = Panel(body, title=Text(run_name, style="bold"), title_align="left", border_style="cyan", padding=(0, 1))
    return Constrain(box, width=_MAX_COLUMNS)


def sparkline(values: list[float], columns: int) -> str:
    """Values as a row of bars, each column the mean of its share, scaled to the row's own range."""
    if not values:
        return ""
    columns = min(columns, len(values))
    edges = [round(i * len(values) / columns) for i in range(columns + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(_BARS[round((mean - low) / span * (len(_BARS) - 1))] for mean in means)


def _waiting(progress: Progress) -> str:
    if progress.start is None:
        return "starting workers"
    return f"{workers(progress.start['world_size'])} on {progress.start['device']}, waiting for the first step"


def _body(progress: Progress, newest: Record, duration: Duration) -> RenderableType:
    share = share_done(progress, duration)
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(style="dim", width=9, no_wrap=True)
    rows.add_column(ratio=1)
    rows.add_row("progress", _bar_row(share, f"{share:.0%}", _left(progress, duration)))
    rows.add_row("step", _joined(f"[bold]{newest['step']}[/]", f"{units.count(newest['tokens_seen'])} tokens"))
    rows.add_row("speed", _pace(newest))
    rows.add_row("stage", _stage(newest))
    rows.add_row("loss", _loss(progress, newest))
    if progress.check is not None and progress.check["stage"] == newest["stage"]:
        rows.add_row("slope", _slope(progress.check))
    if progress.val is not None:
        rows.add_row("val loss", _joined(f"[bold]{number(progress.val['val_loss'], '.4f')}[/] [dim]at step {progress.val['step']}[/]"))
    if progress.decision is not None:
        rows.add_row("decision", _decision(progress.decision))
    return rows


def _bar_row(share: float, before: str, after: str, style: str = "cyan") -> RenderableType:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1, min_width=8)
    row.add_column(justify="right", no_wrap=True)
    row.add_row(before, ProgressBar(total=1.0, completed=share, complete_style=style, finished_style=style), after)
    return row


def _left(progress: Progress, duration: Duration) -> str:
    if progress.end is not None:
        return f"done in {units.duration(progress.end['time_s'])}"
    left_s = time_left_s(progress, duration)
    return "" if left_s is None else f"{units.duration(left_s)} left"


def _pace(newest: Record) -> Text:
    parts = [f"[bold]{units.count(newest['tokens_per_s'])} tokens/s[/]", workers(newest["world_size"])]
    if newest["mfu"] is not None:
        parts.append(f"{newest['mfu']:.0%} MFU")
    return _joined(*parts)


def _stage(newest: Record) -> Text:
    layers = "layer" if newest["n_layer"] == 1 else "layers"
    shape = f"[bold]len {newest['seq_len_tokens']} · {newest['n_layer']} {layers} x {newest['d_model']}[/]"
    return _joined(shape, f"{units.count(newest['n_parameters'])} parameters")


def _loss(progress: Progress, newest: Record) -> Text:
    losses = [record["loss"] for record in progress.train if record["stage"] == newest["stage"] and record["loss"] is not None]
    return _joined(f"[bold]{number(newest['loss'], '.4f')}[/] [cyan]{sparkline(losses, _SPARK_COLUMNS)}[/]")


def _slope(check: Record) -> RenderableType:
    if check["slope"] is None:
        return Text(f"not yet: {check['reason']}", style="dim")
    if check["threshold"] is None:
        return Text(f"{check['slope']:.3f}, {check['reason']}", style="dim")
    share = nearness(check)
    after = f"{check['change']} at {check['threshold']:.3f}"
    return _bar_row(share, f"{check['slope']:.3f}", after, style="yellow" if share >= 1 else "cyan")


def _decision(decision: Record) -> Text:
    return Text.from_markup(f"[bold]{label(decision)}[/] [dim]at step {decision['effective_step']}, {reason(decision)}[/]")


def _joined(*parts: str) -> Text:
    return Text.from_markup(" · ".join(parts))
