"""The steps since the last boundary: their losses stay on the device, and are read while it works on."""

import dataclasses
import time
from typing import Any

from torch import Tensor

from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.models.count import matmul_parameters
from raystage.pacing.point import Point
from raystage.training.run import Run
from raystage.training.signal_probe import ProbeSums


@dataclasses.dataclass(frozen=True)
class Step:
    """One step before its loss is known. `loss_sum`, `grad_norm`: scalar tensors on the device.

    `record`: what its record has beside what it shares with its point; `seen`: the point's other fields, but for its seconds.
    """

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


def seen_at(run: Run, lr: float) -> dict[str, Any]:
    """What the point of the step just done has beside its loss and its time."""
    counters, n_parameters = run.state.counters, matmul_parameters(run.state.machinery.spec)
    return {
        "step": counters.step,
        "tokens_seen": counters.tokens_seen,
        "compute": 6.0 * n_parameters * counters.effective_tokens,
        "tokens_per_parameter": counters.effective_tokens / n_parameters,
        "lr": lr,
        "progress": run.progress,
        "taken": run.state.taken,
        "held": counters.held,
        "n_rollbacks": counters.n_rollbacks,
    }


class StepLog:
    """Collects steps; `start_read` sends an interval's sums on their way to the host, `finish_read` gives them out."""

    def __init__(self, device: Device, ranks: Ranks) -> None:
        self._device, self._ranks = device, ranks
        self._steps: list[Step] = []
        self._waited_s = 0.0
        self._reading: _Reading | None = None

    def add(self, step: Step) -> None:
        self._steps.append(step)

    def wait(self) -> None:
        """Until the device has done the steps so far: their time, since it works behind the host's back."""
        begin_s = time.perf_counter()
        self._device.synchronize()
        self._waited_s += time.perf_counter() - begin_s

    def start_read(self, probe: ProbeSums | None, second_moment: Tensor | None) -> None:
        """Begins to sum the losses over the ranks and to copy them to the host; nobody waits."""
        assert self._reading is None, "the interval before has not been read"
        if self._steps:
            self._reading = _Reading(self._steps, self._waited_s, self._device, self._ranks, probe, second_moment)
            self._steps, self._waited_s = [], 0.0

    def finish_read(self, wait: bool) -> Read | None:
        """The interval on its way, once; None where there is none, or it has not arrived and `wait` is false."""
        if self._reading is None or not (wait or self._reading.has_arrived()):
            return None
        read = self._reading.result(self._ranks.world_size)
        self._reading = None
        return read


class _Reading:
    """Sums of one interval on their way: losses and probe over all ranks; norms are the same on each."""

    def __init__(
        self, steps: list[Step], waited_s: float, device: Device, ranks: Ranks, probe: ProbeSums | None, second_moment: Tensor | None
    ) -> None:
        self._steps, self._waited_s, self._probe, self._has_moment = steps, waited_s, probe, second_moment is not None
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
        seconds = sum(step.seconds for step in self._steps) + self._waited_s + time.perf_counter() - begin_s
        tokens_per_s = sum(step.tokens for step in self._steps) / seconds
        flops_per_s = sum(step.flops for step in self._steps) / seconds / world_size
        ends = [(None, None)] * (n - 1) + [self._after_last(sums[n:], norms[n:])]
        records, points = [], []
        for step, total, norm, (probe_loss, second_moment) in zip(self._steps, sums, norms, ends, strict=False):
            seen = {**step.seen, "loss": total / step.tokens, "grad_norm": norm, "probe_loss": probe_loss, "second_moment": second_moment}
            points.append(Point(**seen, seconds=step.record["time_s"]))
            # all of a point's values, so that a run can be replayed from its records
            records.append({**step.record, **seen, "tokens_per_s": tokens_per_s})
        if self._probe:
            records[-1]["probe_by_position"] = self._probe.means(sums[n:])
        return Read(records, points, flops_per_s)

    def _after_last(self, probe_sums: list[float], moments: list[float]) -> tuple[float | None, float | None]:
        """Probe loss and largest second moment, which are those after the last step."""
        return self._probe.mean(probe_sums) if self._probe else None, moments[0] if self._has_moment else None
