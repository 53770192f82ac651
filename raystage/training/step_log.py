"""The steps since the last boundary: their losses stay on the device, and are read while it works on."""

import dataclasses
import math
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

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
        """The first step whose loss or gradient is not finite; the gradient ruins the weights, the loss tells only a step later."""
        return next((p.step for p in self.points if not (math.isfinite(p.loss) and math.isfinite(p.grad_norm))), None)


class StepLog:
    """Collects steps; `start_read` sends an interval's sums on their way to the host, `finish_read` gives them out."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._steps: list[Step] = []
        self._reading: _Reading | None = None

    def add(self, step: Step) -> None:
        self._steps.append(step)

    def start_read(self, probe: ProbeSums | None, second_moment: Tensor | None) -> None:
        """Begins to sum the losses over the ranks and to copy them to the host; nobody waits."""
        assert self._reading is None, "the interval before has not been read"
        if self._steps:
            self._reading = _Reading(self._steps, self._ranks, probe, second_moment)
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

    def __init__(self, steps: list[Step], ranks: Ranks, probe: ProbeSums | None, second_moment: Tensor | None) -> None:
        self._steps, self._probe, self._has_moment = steps, probe, second_moment is not None
        losses = torch.stack([step.loss_sum for step in steps])
        sums = torch.cat([losses, probe.loss_sums.to(losses)]) if probe else losses
        self._work = dist.all_reduce(sums, async_op=True) if ranks.world_size > 1 else None
        if self._work is not None and sums.is_cuda:
            self._work.wait()  # makes the stream wait, not the host
            self._work = None
        moments = [second_moment.to(losses)] if second_moment is not None else []
        norms = torch.stack([*(step.grad_norm.to(losses) for step in steps), *moments])
        self._sums, self._norms = _to_host(sums), _to_host(norms)
        self._event = torch.cuda.current_stream().record_event() if sums.is_cuda else None

    def has_arrived(self) -> bool:
        if self._work is not None and not self._work.is_completed():
            return False
        return self._event is None or self._event.query()

    def result(self, world_size: int) -> Read:
        begin_s = time.perf_counter()
        if self._work is not None:
            self._work.wait()
        if self._event is not None:
            self._event.synchronize()
        sums, norms, n = self._sums.tolist(), self._norms.tolist(), len(self._steps)
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


def _to_host(tensor: Tensor) -> Tensor:
    """Without waiting: into pinned memory where it comes from a GPU."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
