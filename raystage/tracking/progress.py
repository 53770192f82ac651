"""Where a run stands, folded from its records: a value, and how one more record changes it."""

import dataclasses
from collections.abc import Callable

from raystage.config.duration import Duration, Unit
from raystage.tracking.records import Record

_HISTORY = 200
_RATE_RECORDS = 30

_SPENT: dict[Unit, Callable[[Record], float]] = {
    "steps": lambda record: float(record["step"]),
    "tokens": lambda record: float(record["tokens_seen"]),
    "flops": lambda record: float(record["flops"]),
    "hours": lambda record: record["time_s"] / 3600,
}


@dataclasses.dataclass(frozen=True)
class Progress:
    """The newest record of each kind, and the latest training records (at most 200)."""

    train: tuple[Record, ...] = ()
    start: Record | None = None
    check: Record | None = None
    val: Record | None = None
    end: Record | None = None
    decision: Record | None = None

    @property
    def newest(self) -> Record | None:
        return self.train[-1] if self.train else None


def advance(progress: Progress, record: Record) -> Progress:
    """The progress after one line of metrics.jsonl."""
    match record["kind"]:
        case "train":
            return dataclasses.replace(progress, train=(*progress.train[-_HISTORY + 1 :], record), end=None)
        case "start":
            return dataclasses.replace(progress, start=record, end=None)
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


def time_left_s(progress: Progress, duration: Duration) -> float | None:
    """[s] at the pace of the present stage's last steps; None until two steps of it are known."""
    newest = progress.newest
    if newest is None:
        return None
    recent = [record for record in progress.train[-_RATE_RECORDS:] if record["stage"] == newest["stage"]]
    spent = _SPENT[duration.unit]
    gained, took_s = spent(newest) - spent(recent[0]), newest["time_s"] - recent[0]["time_s"]
    if gained <= 0 or took_s <= 0:
        return None
    return max(0.0, duration.amount - spent(newest)) * took_s / gained


def nearness(check: Record) -> float:
    """How near a check is to its trigger, by the confident bound that fires it: 0 steep, 1 at the threshold or flatter."""
    slope, threshold = check["slope_bound"], check["threshold"]
    if slope is None or threshold is None:
        return 0.0
    return 1.0 if slope >= threshold else float(threshold / slope)
