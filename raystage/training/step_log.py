"""The steps since the last boundary: their losses stay on the device, and are read while it works on."""

import dataclasses
import time
from typing import Any

from torch import Tensor

from raystage.devices import Device
from raystage.devices.ranks import Ranks
from raystage.pacing.point import Point
from raystage.training.signal_probe import ProbeSums


@dataclasses.dataclass(frozen=True)
class Step:
    """One step before its loss is known. `loss_sum`, `grad_norm`: scalar tensors on the device; `seen`: the other fields of its point."""

    record: dict[str, Any]
    seen: dict[str, Any]
    tokens: int
    flops: float
    seconds: float
    loss_sum: Tensor
    grad_norm: Tensor


@dataclasses.dataclass(frozen=True)
class Read:
    """An interval's steps with their losses: records for metrics.jsonl, points for the controller, FLOPs a second of one rank."""

    records: list[dict[str, Any]]
    points: list[Point]
    flops_per_s: float

    @property
    def first_bad_step(self) -> int | None:
        """The first step whose loss or gradient is not finite."""
        return next((p.step for p in self.points if not p.is_finite), None)


class StepLog:
    """Collects steps; `start_read` sends an interval's sums on their way to the host, `finish_read` gives them out."""

    def __init__(self, device: Device, ranks: Ranks) -> None:
        self._device, self._ranks = device, ranks
        self._steps: list[Step] = []
        self._reading: _Reading | None = None

    def add(self, step: Step) -> None:
        self._steps.append(step)

    def start_read(self, probe: ProbeSums | None, second_moment: Tensor | None) -> None:
        """Begins to sum the losses over the ranks and to copy them to the host; nobody waits."""
        assert self._reading is None, "the interval before has not been read"
        if self._steps:
            self._reading = _Reading(self._steps, self._device, self._ranks, probe, second_moment)
            self._steps = []

    def finish_read(self, wait: bool) -> Read | None:
        """The interval on its way, once; None where there is none, or it has not arrived and `wait` is false."""
        if self._reading is None or not (wait or self._reading.has_arrived()):
            return None
        read = self._reading.result(self._ranks.world_size)
        self._reading = None
        return read


class _Reading:
    """Sums of one interval on their way: losses and probe over all ranks; norms are the same on each."""

    def __init__(self, steps: list[Step], device: Device, ranks: Ranks, probe: ProbeSums | None, second_moment: Tensor | None) -> None:
        self._steps, self._probe, self._has_moment = steps, probe, second_moment is not None
        losses = [step.loss_sum for step in steps] + ([probe.loss_sums] if probe else [])
        norms = [step.grad_norm for step in steps] + ([second_moment] if second_moment is not None else [])
        self._reading = device.read(losses, norms, ranks)

    def has_arrived(self) -> bool:
        return self._reading.has_arrived()

    def result(self, world_size: int) -> Read:
        begin_s = time.perf_counter()
        sums, norms = self._reading.result()
        n = len(self._steps)
        # a device that works behind the host's back is waited for here
        seconds = sum(step.seconds for step in self._steps) + time.perf_counter() - begin_s
        tokens_per_s = sum(step.tokens for step in self._steps) / seconds
        flops_per_s = sum(step.flops for step in self._steps) / seconds / world_size
        losses = [total / step.tokens for total, step in zip(sums, self._steps, strict=False)]
        known = [{**step.seen, "loss": loss, "grad_norm": norm} for step, loss, norm in zip(self._steps, losses, norms, strict=False)]
        # probe and moments are those after the last step
        known[-1] |= {
            "probe_loss": self._probe.mean(sums[n:]) if self._probe else None,
            "second_moment": norms[n] if self._has_moment else None,
        }
        records = [
            {**step.record, **_recorded(values), "tokens_per_s": tokens_per_s} for step, values in zip(self._steps, known, strict=True)
        ]
        if self._probe:
            records[-1]["probe_by_position"] = self._probe.means(sums[n:])
        return Read(records, [Point(**values) for values in known], flops_per_s)


def _recorded(values: dict[str, Any]) -> dict[str, Any]:
    """A point's values as a record has them, all of them in every record, so that a run can be replayed from its records."""
    return {"probe_loss": None, "second_moment": None, **{name: value for name, value in values.items() if name != "seconds"}}
