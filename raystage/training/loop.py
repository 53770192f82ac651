"""The training loop of one rank: steps, boundaries, changes of stage.

Every `check_every_steps` steps lies a boundary, the only place where ranks exchange words: losses become
points, rank 0 learns the controller's answer to the points of the boundary before, and all ranks hear it.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raystage.data.batch import cut, rank_slice, read_batch, spread_rows, whole_rows
from raystage.data.order import RowOrder
from raystage.devices import Device
from raystage.devices.ranks import Ranks
from raystage.evaluation.loss import summed_loss, validation_loss
from raystage.models.count import flops_per_token, matmul_parameters, mfu
from raystage.pacing.controller import Check, Decision, Point, State
from raystage.pacing.stage import RECORD_KINDS
from raystage.training.checkpoint import CheckpointStore, Stored
from raystage.training.control import Orders, share_orders
from raystage.training.coordinator import Coordinator
from raystage.training.job import Job
from raystage.training.learning_rate import learning_rate_factor, rewarm_factor
from raystage.training.manifest import Manifest
from raystage.training.optimizer import set_learning_rate
from raystage.training.policy import peak_lr, policy_of
from raystage.training.ports import Recorder, RemoteController
from raystage.training.saver import Saver
from raystage.training.start import start_state
from raystage.training.step import train_step
from raystage.training.transition import apply_growth, apply_length


class TrainingError(RuntimeError):
    """Training cannot go on, on any rank; the message says what to do next."""


class FencedError(RuntimeError):
    """A later attempt at the same run has taken over; raised on rank 0."""


@dataclasses.dataclass(frozen=True)
class Outside:
    """What rank 0 is given: where records go, the remote controller if any, whether to stop, whether a later
    attempt has taken over, and the tracked run's name for the manifest."""

    recorder: Recorder
    remote: RemoteController | None = None
    stop_requested: Callable[[], bool] = lambda: False
    still_ours: Callable[[], bool] = lambda: True
    tracking_run_id: Callable[[], str | None] = lambda: None


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step whose loss is still on the device. `loss_sum`, `grad_norm`: scalar tensors."""

    record: dict[str, Any]
    progress: float
    compute: float
    position: int
    tokens: int
    flops: float
    seconds: float
    loss_sum: Tensor
    grad_norm: Tensor


class Loop:
    """One attempt at a run on one rank. `outside` is given on rank 0 alone."""

    def __init__(self, job: Job, resume: Stored | None, device: Device, ranks: Ranks, outside: Outside | None) -> None:
        config = job.config
        self._job, self._config, self._device, self._ranks, self._outside = job, config, device, ranks, outside
        self._rows = job.corpus.train_rows(config.model.context_length)
        self._order = RowOrder(len(self._rows), config.seed)
        self._validation_rows = job.corpus.validation_rows(config.model.context_length)
        self._store = CheckpointStore(job.run_dir)
        self._saver = Saver(self._store, config.checkpoint)
        self._state, self._decisions = start_state(job, resume, device, ranks)
        self._unrecorded = [] if resume else list(self._decisions)
        self._coordinator = self._make_coordinator(resume)
        self._decision = self._coordinator.due(self._state.counters.step + 1, self._state.position)
        self._steps: list[_Pending] = []
        self._points: list[Point] = []
        self._slope: float | None = None
        self._val_loss = resume.manifest.val_loss if resume else None
        self._started_s = time.perf_counter()
        self._elapsed_before_s = self._state.counters.elapsed_s
        self._saved_s = self._started_s
        self._boundary_step = self._state.counters.step

    def run(self) -> bool:
        """Trains to the end of the duration. False when it stopped before, on request."""
        self._record({"kind": "start", "step": self._state.counters.step, **self._stamp(), "device": self._device.name})
        for record in self._unrecorded:
            self._record_decision(record)
        with self._saver:
            return self._train()

    def _train(self) -> bool:
        while self._progress() < 1.0:
            if self._decision is not None:
                self._change_stage(self._decision)
            self._train_one_step()
            if self._state.counters.step % self._config.pacing.check_every_steps == 0 and self._boundary():
                self._save("stop")
                return False
        self._finish()
        return True

    # -- one step

    def _train_one_step(self) -> None:
        begin_s = time.perf_counter()
        state, settings = self._state, self._config.training
        counters, seq_len_tokens = state.counters, state.shape.seq_len_tokens
        step, progress = counters.step + 1, self._progress()
        if self._config.model.dropout > 0:
            # a step's dropout depends on its number alone, so that a resumed run repeats it
            torch.manual_seed((self._config.seed * 1_000_003 + step) * 4099 + self._ranks.rank)
        lr = peak_lr(self._config, state.shape) * self._rate_factor(step, progress)
        set_learning_rate(state.machinery.optimizer, lr)
        cut_ = cut(counters.cursor, self._n_sequences(), seq_len_tokens, self._config.model.context_length, self._config.pacing.cutting)
        mine = rank_slice(len(cut_.position), self._ranks.rank, self._ranks.world_size)
        batch = read_batch(self._rows, self._order, cut_, mine, seq_len_tokens)
        loss_sum, grad_norm = train_step(
            state.machinery, batch, cut_.tokens, self._ranks.world_size, self._device, settings, self._job.attention_eot_id
        )
        flops = cut_.tokens * flops_per_token(state.machinery.spec, seq_len_tokens)
        counters = counters.after_step(cut_.tokens, cut_.n_dropped, cut_.cursor_after, flops)
        self._state = dataclasses.replace(state, counters=counters)
        self._steps.append(
            _Pending(
                record={"step": step, **self._stamp(), "lr": lr},
                progress=self._progress(),
                compute=6.0 * matmul_parameters(state.machinery.spec) * counters.effective_tokens,
                position=state.position,
                tokens=cut_.tokens,
                flops=flops,
                seconds=time.perf_counter() - begin_s,
                loss_sum=loss_sum,
                grad_norm=grad_norm,
            )
        )

    def _rate_factor(self, step: int, progress: float) -> float:
        counters, grown = self._state.counters, self._state.counters.grown_at_step
        rewarm = rewarm_factor(None if grown is None else step - grown, self._config.growth.rewarm_steps)
        return rewarm * learning_rate_factor(self._config.training.schedule, step, progress, counters.lr_shift)

    def _n_sequences(self) -> int:
        settings = self._config.training
        length = self._state.shape.seq_len_tokens if settings.batch_rule == "tokens" else self._config.model.context_length
        return max(1, settings.batch_tokens // length)

    # -- boundaries

    def _boundary(self) -> bool:
        """Exchanges losses and orders between the ranks; true when the run is to stop here."""
        self._saver.check()
        before, step = self._boundary_step, self._state.counters.step
        self._boundary_step = step
        self._flush()
        if self._validation_due(before, step):
            self._validate(stage_end=False)
        orders = share_orders(self._ranks, self._make_orders(before, step))
        self._decision = orders.decision
        self._state = dataclasses.replace(self._state, counters=dataclasses.replace(self._state.counters, elapsed_s=orders.elapsed_s))
        if self._ranks.is_first:
            self._coordinator.send(self._points)
            self._points = []
        if orders.save and orders.decision is None and not orders.stop:
            self._save("interval")
        return orders.stop

    def _flush(self) -> None:
        """Reads the losses of the steps since the last boundary, summed over the ranks, and records them."""
        if not self._steps:
            return
        begin_s = time.perf_counter()
        losses = self._ranks.sum(torch.stack([p.loss_sum for p in self._steps])).tolist()
        norms = torch.stack([p.grad_norm for p in self._steps]).tolist()
        # a device that works behind the host's back is waited for here
        seconds = sum(p.seconds for p in self._steps) + time.perf_counter() - begin_s
        tokens_per_s = sum(p.tokens for p in self._steps) / seconds
        used = mfu(sum(p.flops for p in self._steps) / seconds / self._ranks.world_size, self._device.name)
        for pending, loss_sum, grad_norm in zip(self._steps, losses, norms, strict=True):
            loss = loss_sum / pending.tokens
            record = {
                **pending.record,
                "loss": loss,
                "grad_norm": grad_norm,
                "tokens_per_s": tokens_per_s,
                "mfu": used,
                "slope": self._slope,
            }
            self._record({"kind": "train", **record})
            self._check_finite(record["step"], loss, grad_norm)
            self._points.append(
                Point(record["step"], loss, record["tokens_seen"], pending.compute, record["lr"], pending.progress, pending.position)
            )
        self._steps = []

    def _check_finite(self, step: int, loss: float, grad_norm: float) -> None:
        """The gradient too: one that is not finite ruins the weights, and the loss tells only a step later."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingError(
                f"the loss is {loss} and the gradient norm {grad_norm} at step {step}; "
                "lower training.optimizer.lr or training.optimizer.clip_norm and start a new run"
            )

    def _make_orders(self, before: int, step: int) -> Orders:
        if self._outside is None:
            return Orders(None, False, False, 0.0)
        if not self._outside.still_ours():
            raise FencedError(f"another attempt at run {self._config.name!r} has taken over; this one stops")
        for check in self._coordinator.resolve():
            self._record_check(check)
        settings, saved_for_s = self._config.checkpoint, time.perf_counter() - self._saved_s
        by_time = settings.every_minutes is not None and saved_for_s >= 60 * settings.every_minutes
        save = by_time or _crosses(settings.every_steps, before, step)
        return Orders(self._coordinator.due(step + 1, self._state.position), save, self._outside.stop_requested(), self._elapsed_s())

    def _record_check(self, check: Check) -> None:
        if check.stage == self._state.position:
            self._slope = check.slope
        self._record({"kind": "check", **dataclasses.asdict(check)})

    # -- validation and checkpoints

    def _validation_due(self, before: int, step: int) -> bool:
        return _crosses(self._config.validation.every_steps, before, step)

    def _validate(self, stage_end: bool) -> None:
        state = self._state
        self._val_loss = validation_loss(
            state.machinery.trainee,
            self._validation_rows,
            self._config.validation.rows,
            self._device,
            self._ranks,
            self._rows_at_once(),
            self._job.attention_eot_id,
        )
        self._record({"kind": "val", "step": state.counters.step, **self._stamp(), "val_loss": self._val_loss, "stage_end": stage_end})

    def _rows_at_once(self) -> int:
        return max(1, self._config.training.micro_batch_tokens // self._config.model.context_length)

    def _save(self, reason: str, pinned: bool = False, frozen: bool = False) -> None:
        """Rank 0 writes; the others go on, since their state is the same. `frozen`: nobody changes it while it is written."""
        self._saved_s = time.perf_counter()
        if self._outside is None:
            return
        state = self._state
        if pinned and self._store.is_pinned(state.counters.step, reason):
            return  # an attempt that died right after pinning comes by here again
        manifest = Manifest(
            run_name=self._config.name,
            attempt=self._job.attempt,
            reason=reason,
            pinned=pinned,
            spec=state.machinery.spec,
            shape=state.shape,
            position=state.position,
            counters=state.counters,
            controller=self._coordinator.state,
            unresolved=self._coordinator.unresolved,
            decisions=tuple(self._decisions),
            seed=self._config.seed,
            corpus_digest=self._job.corpus.digest,
            world_size=self._ranks.world_size,
            mlflow_run_id=self._outside.tracking_run_id(),
            val_loss=self._val_loss,
        )
        self._saver.save(manifest, state.machinery.model.config, state.machinery.tensors(), frozen=frozen)  # type: ignore[arg-type]

    # -- changes of stage

    def _change_stage(self, decision: Decision) -> None:
        """Applies a decision before the step it takes effect with: validate, change, record, save; growth pins."""
        self._validate(stage_end=True)
        before, counters, begin_s = self._state.shape, self._state.counters, time.perf_counter()
        if decision.change.kind == "length":
            self._state, report = apply_length(self._state, decision)
        else:
            try:
                grown, report = apply_growth(
                    self._state, decision, self._config, self._job.duration, self._device, self._ranks, self._probe_loss
                )
            finally:
                # growth leaves the old tensors as they are, so they are written while training goes on with the new ones
                self._save(f"before-{decision.decision_id}", pinned=True, frozen=True)
            self._state = grown
            if report.outcome == "refused":
                self._saver.wait()  # training goes on with the tensors that are being written
        self._decision, self._slope = None, None
        record = {
            "decision_id": decision.decision_id,
            "kind": RECORD_KINDS[decision.change.kind],
            "from": dataclasses.asdict(before),
            "to": dataclasses.asdict(before.after(decision.change)),
            "check_step": decision.check_step,
            "effective_step": decision.effective_step,
            "tokens_seen": counters.tokens_seen,
            "flops": counters.flops,
            "time_s": self._elapsed_s(),
            "trigger": decision.trigger,
            "slope": decision.slope,
            "threshold": decision.threshold,
            "val_loss": self._val_loss,
            **dataclasses.asdict(report),
        }
        self._decisions.append(record)
        self._record_decision(record)
        self._save("stage")
        self._record({"kind": "pause", "step": counters.step, "pause_s": time.perf_counter() - begin_s, "attempt": self._job.attempt})

    def _probe_loss(self, trainee: nn.Module) -> float:
        """The fixed probe: the same held-out rows for ever, in full float32; every rank computes all of it."""
        numbers = spread_rows(self._validation_rows, self._config.growth.probe_rows)
        batch = whole_rows(self._validation_rows, numbers)
        training_precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # TF32 rounds more than the gate allows
        total, tokens = summed_loss(trainee, batch, self._device, self._rows_at_once(), self._job.attention_eot_id)
        torch.set_float32_matmul_precision(training_precision)
        return total / tokens

    def _finish(self) -> None:
        self._flush()
        if self._outside is not None:
            for check in self._coordinator.resolve():
                self._record_check(check)
            self._coordinator.send(self._points)
            self._points = []
        self._validate(stage_end=True)
        self._save("end", pinned=True)
        self._saver.wait()  # the end is told when it is safe
        self._record({"kind": "end", "step": self._state.counters.step, **self._stamp()})

    # -- records

    def _make_coordinator(self, resume: Stored | None) -> Coordinator:
        remote = self._outside.remote if self._outside else None
        policy = policy_of(self._config)
        if resume is not None:
            return Coordinator(policy, resume.manifest.controller, resume.manifest.unresolved, remote)
        counters = self._state.counters
        start = State(
            watermark=counters.step,
            position=self._state.position,
            tokens_seen=counters.tokens_seen,
            stage_start_tokens=counters.tokens_seen,
            next_decision_id=1 + len(self._decisions),
        )
        return Coordinator(policy, start, (), remote)

    def _progress(self) -> float:
        return self._state.counters.progress(self._job.duration)

    def _elapsed_s(self) -> float:
        return self._elapsed_before_s + time.perf_counter() - self._started_s

    def _stamp(self) -> dict[str, Any]:
        """What every record carries: the clocks, and the stage."""
        state, counters = self._state, self._state.counters
        return {
            "tokens_seen": counters.tokens_seen,
            "tokens_dropped": counters.tokens_dropped,
            "flops": counters.flops,
            "time_s": round(self._elapsed_s(), 4),
            "stage": state.position,
            "seq_len_tokens": state.shape.seq_len_tokens,
            "batch_tokens": self._n_sequences() * state.shape.seq_len_tokens,
            "n_layer": state.shape.n_layer,
            "d_model": state.shape.d_model,
            "n_parameters": state.machinery.n_parameters,
            "world_size": self._ranks.world_size,
            "attempt": self._job.attempt,
        }

    def _record_decision(self, record: dict[str, Any]) -> None:
        if self._outside is not None:
            self._outside.recorder.decision(record)

    def _record(self, record: dict[str, Any]) -> None:
        if self._outside is not None:
            self._outside.recorder.metric(record)


def _crosses(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every
