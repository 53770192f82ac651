"""Where a run stands, folded from its records: a value, and how one more record changes it."""

import dataclasses
from collections.abc import Callable

from raystage.config.duration import Duration, Unit
from raystage.tracking.loss_curve import LossCurve
from raystage.tracking.records import Record

_RATE_RECORDS = 30
_LONG_S = 3600.0  # of a run, from which a percent takes half a minute and more

_SPENT: dict[Unit, Callable[[Record], float]] = {
    "steps": lambda record: float(record["step"]),
    "tokens": lambda record: float(record["tokens_seen"] or 0),
    "flops": lambda record: float(record["flops"] or 0),
    "hours": lambda record: (record["time_s"] or 0) / 3600,
}


@dataclasses.dataclass(frozen=True)
class Progress:
    """The newest record of each kind, the latest training records (at most 30), and the losses of the present stage.

    `storage`: of trouble that lasts.
    """

    train: tuple[Record, ...] = ()
    losses: LossCurve = dataclasses.field(default_factory=LossCurve)
    start: Record | None = None
    check: Record | None = None
    val: Record | None = None
    end: Record | None = None
    storage: Record | None = None
    decision: Record | None = None

    @property
    def newest(self) -> Record | None:
        return self.train[-1] if self.train else None


def advance(progress: Progress, record: Record) -> Progress:
    """The progress after one line of metrics.jsonl."""
    match record["kind"]:
        case "train":
            latest, losses = (*progress.train[1 - _RATE_RECORDS :], record), progress.losses.plus(record["stage"], record["loss"])
            return dataclasses.replace(progress, train=latest, losses=losses, end=None)
        case "start":
            return dataclasses.replace(progress, start=record, end=None, storage=None)
        case "storage":
            return dataclasses.replace(progress, storage=None if record["is_over"] else record)
        case "check":
            return dataclasses.replace(progress, check=record)
        case "val":
            return dataclasses.replace(progress, val=record)
        case "end":
            return dataclasses.replace(progress, end=record)
    return progress


def decided(progress: Progress, decision: Record) -> Progress:
    """The progress after one line of decisions.jsonl."""
    return dataclasses.replace(progress, decision=decision)


def share_done(progress: Progress, duration: Duration) -> float:
    """Of the run's budget, 0 to 1."""
    if progress.newest is None:
        return 0.0
    return min(1.0, _SPENT[duration.unit](progress.newest) / duration.amount)


def percent_done(progress: Progress, duration: Duration) -> str:
    """`45%`; `45.3%` of a run of hours."""
    known_s = (progress.newest or {}).get("time_s") or 0.0
    is_long = known_s + (time_left_s(progress, duration) or 0.0) >= _LONG_S
    return format(share_done(progress, duration), ".1%" if is_long else ".0%")


def time_left_s(progress: Progress, duration: Duration) -> float | None:
    """[s] at the pace of the present stage's last steps; None until two steps of it are known."""
    newest = progress.newest
    if newest is None:
        return None
    recent = [record for record in progress.train if record["stage"] == newest["stage"]]
    spent = _SPENT[duration.unit]
    gained, took_s = spent(newest) - spent(recent[0]), (newest["time_s"] or 0) - (recent[0]["time_s"] or 0)
    if gained <= 0 or took_s <= 0:
        return None
    return max(0.0, duration.amount - spent(newest)) * took_s / gained


def nearness(check: Record) -> float:
    """How near a check is to its trigger, by the confident bound that fires it: 0 steep, 1 at the threshold or flatter."""
    slope, threshold = check["slope_bound"], check["threshold"]
    if slope is None or threshold is None:
        return 0.0
    return 1.0 if slope >= threshold else float(threshold / slope)
