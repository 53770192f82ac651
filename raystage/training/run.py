"""What one rank's loop works on: the training state, its records, validation and checkpoints."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from raystage.data.batch import spread_rows, whole_rows
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.evaluation.loss import rows_at_once, summed_loss, validation_loss
from raystage.pacing.point import Point
from raystage.pacing.stage import Shape
from raystage.pacing.state import State
from raystage.storage.patience import Patience
from raystage.training.checkpoint import Stored
from raystage.training.checkpoint_writing import CheckpointWriter
from raystage.training.job import Job
from raystage.training.manifest import Manifest
from raystage.training.mirror import AnyMirror
from raystage.training.ports import Asked, Commands, Recorder, RemoteController, nothing_asked
from raystage.training.preflight import Preflight
from raystage.training.saver import Saver
from raystage.training.sharding import shards
from raystage.training.stage_model import peak_lr
from raystage.training.start import start_state
from raystage.training.step import n_sequences_of


@dataclasses.dataclass(frozen=True)
class Outside:
    """What rank 0 is given: where records go, the remote controller if any, whether it is asked to stop or to leave, decisions by hand,
    whether a later attempt has taken over, the tracked run's name for the manifest, where checkpoints are copied to, and how long
    storage may fail."""

    recorder: Recorder
    remote: RemoteController | None = None
    asked: Asked = nothing_asked
    commands: Commands | None = None
    still_ours: Callable[[], bool] = lambda: True
    tracking_run_id: Callable[[], str | None] = lambda: None
    mirror: AnyMirror | None = None
    patience: Patience | None = None


class Run:
    """One attempt at a run on one rank. `outside` is given on rank 0 alone; `preflight`: what a rehearsal has found, if there was one."""

    def __init__(
        self, job: Job, resume: Stored | None, device: Device, ranks: Ranks, outside: Outside | None, preflight: Preflight | None = None
    ) -> None:
        self.job, self.config, self.device, self.ranks, self.outside = job, job.config, device, ranks, outside
        self.settings = preflight.settings if preflight else job.config.training
        self._preflight = preflight
        self._peak_lr: tuple[Shape | None, float] = (None, 0.0)
        self.validation_rows = job.corpus.validation_rows(self.config.model.context_length)
        self.store = CheckpointWriter(job.run_dir, job.bring)
        mirror, patience = (outside.mirror, outside.patience) if outside else (None, None)
        self.saver = Saver(self.store, self.config.checkpoint, ranks, mirror, patience, self._tell_alive)
        self.state, self.decisions = start_state(job, resume, device, ranks)
        self.val_loss = resume.manifest.val_loss if resume else None
        self.validated_step: int | None = None  # in this attempt, the last
        self.saved_s = self._started_s = time.perf_counter()
        self._elapsed_before_s = self.state.counters.elapsed_s

    def _tell_alive(self) -> None:
        if self.outside is not None:
            self.outside.asked(self.state.counters.step, self.state.position)

    @property
    def progress(self) -> float:
        """Share of the duration done."""
        return self.state.counters.progress(self.job.duration)

    @property
    def elapsed_s(self) -> float:
        """Wall time of training, earlier attempts included."""
        return self._elapsed_before_s + time.perf_counter() - self._started_s

    @property
    def n_sequences(self) -> int:
        """Sequences of a step, over all ranks."""
        return n_sequences_of(self.state.shape, self.settings, self.config.model.context_length)

    @property
    def peak_lr(self) -> float:
        """Of the present stage."""
        if self._peak_lr[0] != self.state.shape:
            self._peak_lr = (self.state.shape, peak_lr(self.config, self.state.shape))
        return self._peak_lr[1]

    # -- losses

    def validate(self, stage_end: bool) -> None:
        """The validation loss at the full context, whatever the stage."""
        self.val_loss = validation_loss(
            self.state.machinery.trainee,
            self.validation_rows,
            self.config.validation.rows,
            self.device,
            self.ranks,
            rows_at_once(self.config, self.settings, self.device, self.ranks),
            self.job.attention_eot_id,
        )
        self.validated_step = self.state.counters.step
        self.record({"kind": "val", "step": self.state.counters.step, **self.stamp(), "val_loss": self.val_loss, "stage_end": stage_end})

    def gate_loss(self, trainee: nn.Module) -> float:
        """The probe of growth: the same held-out rows for ever, in full float32; every rank computes all of it."""
        batch = whole_rows(self.validation_rows, spread_rows(self.validation_rows, self.config.growth.probe_rows))
        at_once = rows_at_once(self.config, self.settings, self.device, self.ranks)
        total, tokens = summed_loss(trainee, batch, self.device, at_once, self.job.attention_eot_id)
        return total / tokens

    # -- checkpoints

    def save(self, reason: str, controller: State, unresolved: tuple[Point, ...], pinned: bool = False, frozen: bool = False) -> None:
        """Rank 0 writes whole tensors, and the others go on, since their state is the same; of sharded ones each writes its own.

        `frozen`: nobody changes it while it is written.
        """
        self.saved_s = time.perf_counter()
        is_sharded = shards(self.config, self.ranks)
        if self.outside is None and not is_sharded:
            return
        state = self.state
        is_pinned = pinned and self.ranks.is_first and self.store.is_pinned(state.counters.step, reason)
        if self.ranks.from_first([int(is_pinned)])[0] if is_sharded else is_pinned:
            return  # an attempt that died right after pinning comes by here again
        manifest = Manifest(
            run_name=self.config.name,
            attempt=self.job.attempt,
            reason=reason,
            pinned=pinned,
            spec=state.machinery.spec,
            shape=state.shape,
            taken=state.taken,
            counters=dataclasses.replace(state.counters, elapsed_s=self.elapsed_s),
            controller=controller,
            unresolved=unresolved,
            decisions=tuple(self.decisions),
            seed=self.config.seed,
            corpus_digest=self.job.corpus.digest,
            world_size=self.ranks.world_size,
            mlflow_run_id=self.outside.tracking_run_id() if self.outside else None,
            val_loss=self.val_loss,
            duration=self.config.training.duration,
        )
        self.saver.save(manifest, state.machinery.model.config, state.machinery.tensors(), frozen=frozen)  # type: ignore[arg-type]

    # -- records

    def stamp(self) -> dict[str, Any]:
        """What every record carries: the clocks, the account of tokens, and the stage."""
        state, counters = self.state, self.state.counters
        return {
            "tokens_seen": counters.tokens_seen,
            "tokens_dropped": counters.place.tokens_dropped,
            "tokens_waiting": counters.place.tokens_waiting(self.config.model.context_length),
            "tokens_recycled": counters.place.tokens_recycled,
            "tokens_repeated": counters.place.tokens_repeated,
            "tokens_skipped": counters.place.tokens_skipped,
            "tokens_undone": counters.tokens_undone,
            "flops": counters.flops,
            "time_s": round(self.elapsed_s, 4),
            "stage": state.position,
            "seq_len_tokens": state.shape.seq_len_tokens,
            "batch_tokens": self.n_sequences * state.shape.seq_len_tokens,
            "n_layer": state.shape.n_layer,
            "d_model": state.shape.d_model,
            "n_parameters": state.machinery.n_parameters,
            "world_size": self.ranks.world_size,
            "attempt": self.job.attempt,
        }

    def record_start(self) -> None:
        """What this attempt begins with."""
        step = self.state.counters.step
        micro_batch = {"micro_batch_tokens": self.settings.micro_batch}
        self.record({"kind": "start", "step": step, **self.stamp(), **micro_batch, "device": self.device.name})
        if self._preflight is not None:
            self.record({**self._preflight.record, "step": step, "attempt": self.job.attempt})

    def decide(self, record: dict[str, Any]) -> None:
        """Keeps the record of a decision, for the files and for every later checkpoint."""
        self.decisions.append(record)
        self.record_decision(record)

    def record_decision(self, record: dict[str, Any]) -> None:
        if self.outside is not None:
            self.outside.recorder.decision(record)

    def record(self, *records: dict[str, Any]) -> None:
        """Hands them on at once, where records go."""
        if self.outside is not None:
            self.outside.recorder.metrics(list(records))
