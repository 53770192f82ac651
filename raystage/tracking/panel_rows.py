"""What the live panel says: one row a subject, each of short parts, wherever they are drawn."""

import dataclasses

from raystage.pacing.guard import UNSTABLE
from raystage.tracking import units
from raystage.tracking.decision_text import label, reason
from raystage.tracking.glyphs import Glyphs
from raystage.tracking.goal import Goal
from raystage.tracking.loss_curve import sparkline
from raystage.tracking.plain_lines import counted, mfu, number, workers
from raystage.tracking.progress import Progress, nearness, percent_done, share_done, time_left_s
from raystage.tracking.records import Record

_SPARK_COLUMNS = 24


@dataclasses.dataclass(frozen=True)
class Bar:
    """`share`: filled, 0 to 1; `before`, `after`: what stands at its ends."""

    share: float
    before: str
    after: str
    is_full_news: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """`strong`: the part that is looked for first, `picture` goes with it; `is_trouble`: worth a warning colour."""

    subject: str
    strong: str = ""
    parts: tuple[str, ...] = ()
    picture: str = ""
    bar: Bar | None = None
    is_trouble: bool = False


def rows_of(progress: Progress, goal: Goal, glyphs: Glyphs) -> list[Row]:
    """From the first training step on; before it a row that says what is waited for."""
    newest = progress.newest
    if newest is None:
        return [Row("", parts=(_waiting(progress),))]
    rows = [
        Row("progress", bar=Bar(share_done(progress, goal.duration), percent_done(progress, goal.duration), _left(progress, goal))),
        Row("step", str(newest["step"]), (f"{counted(newest['tokens_seen'])} tokens",)),
        Row("speed", f"{counted(newest['tokens_per_s'])} tokens/s", _pace(progress, newest)),
        Row("stage", _stage(newest, goal), _shape(newest)),
        Row("loss", number(newest["loss"], ".4f"), picture=sparkline(progress.losses.means, _SPARK_COLUMNS, glyphs.bars)),
    ]
    if progress.check is not None and progress.check["stage"] == newest["stage"]:
        rows += _slope(progress.check, goal, glyphs)
    if progress.val is not None:
        rows.append(Row("val loss", number(progress.val["val_loss"], ".4f"), (f"at step {progress.val['step']}",)))
    if progress.decision is not None:
        why = f"at step {progress.decision['effective_step']}, {reason(progress.decision)}"
        rows.append(Row("decision", label(progress.decision), (why,)))
    troubles = _troubles(progress, newest)
    return [*rows, Row("trouble", troubles[0], troubles[1:], is_trouble=True)] if troubles else rows


def _waiting(progress: Progress) -> str:
    if progress.start is None:
        return "starting workers"
    return f"{workers(progress.start['world_size'])} on {progress.start['device']}, waiting for the first step"


def _left(progress: Progress, goal: Goal) -> str:
    if progress.end is not None:
        return f"done in {units.duration(progress.end['time_s'] or 0)}"
    left_s = time_left_s(progress, goal.duration)
    return "" if left_s is None else f"{units.duration(left_s)} left"


def _pace(progress: Progress, newest: Record) -> tuple[str, ...]:
    attempt = (progress.start or {}).get("attempt") or 1
    return workers(newest["world_size"]), mfu(newest), f"attempt {attempt}" if attempt > 1 else ""


def _stage(newest: Record, goal: Goal) -> str:
    return str(newest["stage"] + 1) + (f" of {goal.n_stages}" if goal.n_stages is not None else "")


def _shape(newest: Record) -> tuple[str, ...]:
    layers = "layer" if newest["n_layer"] == 1 else "layers"
    sizes = f"{newest['n_layer']} {layers} x {newest['d_model']}"
    return f"len {newest['seq_len_tokens']}", sizes, f"{counted(newest['n_parameters'])} parameters"


def _slope(check: Record, goal: Goal, glyphs: Glyphs) -> list[Row]:
    """The slope and how sure it is; the bar is that of its confident bound, which fires when it has passed the threshold."""
    slope, error, bound = check["slope"], check.get("slope_se"), check["slope_bound"]
    if slope is None:
        return [Row("slope", parts=(str(check["reason"]),))]
    known = f"{slope:.3f}" + (f" {glyphs.plus_minus} {error:.3f}" if error is not None else "")
    if check["threshold"] is None or bound is None:
        return [Row("slope", known, (str(check["reason"]),))]
    share, in_a_row = nearness(check), check.get("in_a_row")
    looks = f"{in_a_row} of {goal.looks} looks" if goal.looks is not None and in_a_row is not None else ""
    why = "" if check["reason"] == "slope" else str(check["reason"])
    bar = Bar(share, known, f"bound {bound:.3f}", is_full_news=True)
    return [Row("slope", bar=bar), Row("", parts=(f"{check['change']} at {check['threshold']:.3f}", why, looks))]


def _troubles(progress: Progress, newest: Record) -> tuple[str, ...]:
    n_rollbacks = newest.get("n_rollbacks") or 0
    said = (
        f"unstable: {progress.check['reason']}" if progress.check is not None and progress.check["reason"] in UNSTABLE else "",
        "gradient not finite" if newest["grad_norm"] is None else "",
        "pacing on hold" if newest.get("held") else "",
        f"{n_rollbacks} {'rollback' if n_rollbacks == 1 else 'rollbacks'}" if n_rollbacks else "",
        str(progress.storage["text"]) if progress.storage is not None else "",
    )
    return tuple(trouble for trouble in said if trouble)
