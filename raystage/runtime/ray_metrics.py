"""A run as Ray's own metrics: its newest numbers, which the agent of the driver's node shows to Prometheus as `ray_raystage_...`.

Ray takes a gauge once, at its next report (every 10 s), and forgets it 20 s later, so all of them are set again every second. What is
not finite it drops without a word: such a loss is a gap, and `raystage_finite` is 0. Counters stay with the agent when the driver is gone;
a driver that goes on with a run counts from the run's beginning, under a WorkerId of its own: dashboards take the largest of a run.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ray.util.metrics import Counter, Gauge

from raystage.config import Config
from raystage.tracking import Follower
from raystage.tracking.records import Record

GAUGES: Mapping[str, str] = {
    "raystage_step": "Newest step",
    "raystage_progress": "Share of training.duration that is done, 0 to 1",
    "raystage_tokens_seen": "Target tokens a gradient was taken on [tokens]",
    "raystage_loss": "Training loss of the newest step [nats per token]",
    "raystage_val_loss": "Validation loss at the full context length [nats per token]",
    "raystage_finite": "1 where loss and gradient norm of the newest step are finite, else 0",
    "raystage_grad_norm": "Global gradient norm before clipping",
    "raystage_learning_rate": "Learning rate of the newest step",
    "raystage_tokens_per_second": "Speed since the last boundary [tokens/s]",
    "raystage_mfu": "Share of the device's dense bf16 peak, 0 to 1",
    "raystage_workers": "Workers that train",
    "raystage_stage": "Changes of the plan behind",
    "raystage_sequence_length_tokens": "Sequence length [tokens]",
    "raystage_layers": "Layers of the model",
    "raystage_model_width": "Channels of the model",
    "raystage_parameters": "Trainable parameters",
    "raystage_held": "1 while pacing is on hold, by the guard or by hand, else 0",
    "raystage_slope": "Slope of the loss at the latest check of this stage",
    "raystage_slope_bound": "Lower bound of the slope at pacing.confidence, which fires above the threshold",
    "raystage_slope_threshold": "Slope that ends the stage",
}
COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "raystage_decisions_total": ("Decisions of the run", ("kind", "outcome")),
    "raystage_restarts_total": ("Starts of the run's workers after the first", ()),
}
TAGS = ("run", "experiment")

_OF_TRAIN = {
    "raystage_step": "step",
    "raystage_progress": "progress",
    "raystage_tokens_seen": "tokens_seen",
    "raystage_loss": "loss",
    "raystage_grad_norm": "grad_norm",
    "raystage_learning_rate": "lr",
    "raystage_tokens_per_second": "tokens_per_s",
    "raystage_mfu": "mfu",
    "raystage_workers": "world_size",
    "raystage_stage": "stage",
    "raystage_sequence_length_tokens": "seq_len_tokens",
    "raystage_layers": "n_layer",
    "raystage_model_width": "d_model",
    "raystage_parameters": "n_parameters",
}
_OF_CHECK = {"raystage_slope": "slope", "raystage_slope_bound": "slope_bound", "raystage_slope_threshold": "threshold"}
_OF_VAL = {"raystage_val_loss": "val_loss"}
_REPEAT_S, _LAST_DELIVERY_S = 1.0, 5.0


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What the gauges show, and how often something has happened: by metric and the values of its own tags."""

    gauges: Mapping[str, float] = dataclasses.field(default_factory=dict)
    counts: Mapping[tuple[str, ...], int] = dataclasses.field(default_factory=dict)
    decided: frozenset[tuple[int, str]] = frozenset()


def after_record(numbers: Numbers, record: Record) -> Numbers:
    """The numbers after one line of metrics.jsonl; what it has no number for is shown no more."""
    match record["kind"]:
        case "train":
            gauges = dict(numbers.gauges)
            if gauges.get("raystage_stage") != record["stage"]:
                gauges = {name: value for name, value in gauges.items() if name not in _OF_CHECK}  # of another curve
            finite = record["loss"] is not None and record["grad_norm"] is not None
            flags = {"raystage_finite": float(finite), "raystage_held": float(bool(record.get("held")))}
            return dataclasses.replace(numbers, gauges=_taken(gauges, record, _OF_TRAIN) | flags)
        case "check":
            is_present = numbers.gauges.get("raystage_stage") == record["stage"]
            return dataclasses.replace(numbers, gauges=_taken(numbers.gauges, record, _OF_CHECK)) if is_present else numbers
        case "val":
            return dataclasses.replace(numbers, gauges=_taken(numbers.gauges, record, _OF_VAL))
        case "start" if record["attempt"] > 1:
            return dataclasses.replace(numbers, counts={**numbers.counts, ("raystage_restarts_total",): record["attempt"] - 1})
    return numbers


def after_decision(numbers: Numbers, decision: Record) -> Numbers:
    """The numbers after one line of decisions.jsonl; one that is made again after a restart counts once."""
    made = (decision["decision_id"], decision["kind"])
    if made in numbers.decided:
        return numbers
    key = ("raystage_decisions_total", decision["kind"], str(decision.get("outcome")))
    counts = {**numbers.counts, key: numbers.counts.get(key, 0) + 1}
    return dataclasses.replace(numbers, counts=counts, decided=numbers.decided | {made})


def _taken(gauges: Mapping[str, float], record: Record, fields: Mapping[str, str]) -> dict[str, float]:
    taken = dict(gauges)
    for name, field in fields.items():
        value = record.get(field)
        if value is None:
            taken.pop(name, None)
        else:
            taken[name] = float(value)
    return taken


class RayMetrics:
    """A sink. From `start` to `close` a thread of its own sets the gauges; training knows nothing of it."""

    name = "Ray's metrics"

    def __init__(self, run: str, experiment: str) -> None:
        self._tags = {"run": run, "experiment": experiment}
        self._gauges = {name: Gauge(name, text, TAGS) for name, text in GAUGES.items()}
        self._counters = {name: Counter(name, text, (*TAGS, *own)) for name, (text, own) in COUNTERS.items()}
        self._numbers, self._counted = Numbers(), dict[tuple[str, ...], int]()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="ray-metrics", daemon=True)

    def start(self) -> None:
        """Begins to set gauges."""
        self._thread.start()

    def close(self) -> None:
        """Ray forgets the gauges soon."""
        self._stopping.set()
        self._thread.join()

    def consume(self, records: Sequence[Record], decisions: Sequence[Record]) -> None:
        """Takes new records in file order."""
        numbers = self._numbers
        for record in records:
            numbers = after_record(numbers, record)
        for decision in decisions:
            numbers = after_decision(numbers, decision)
        self._numbers = numbers

    def _repeat(self) -> None:
        while not self._stopping.wait(_REPEAT_S):
            self._set(self._numbers)
        self._set(self._numbers)

    def _set(self, numbers: Numbers) -> None:
        for name, value in numbers.gauges.items():
            self._gauges[name].set(value, self._tags)
        for key, count in numbers.counts.items():
            more = count - self._counted.get(key, 0)
            if more > 0:
                name, *values = key
                self._counters[name].inc(more, {**self._tags, **dict(zip(COUNTERS[name][1], values, strict=True))})
                self._counted[key] = count


@contextlib.contextmanager
def ray_metrics(run_dir: Path, config: Config) -> Iterator[None]:
    """Meanwhile the records of the run are Ray's metrics, tagged with the run's name; this process has joined a cluster."""
    metrics = RayMetrics(config.name, config.tracking.experiment)
    follower = Follower(run_dir, [metrics])
    metrics.start()
    follower.start()
    try:
        yield
    finally:
        follower.stop(_LAST_DELIVERY_S)
        metrics.close()
