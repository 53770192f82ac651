"""The training loop of one rank: steps, boundaries, decisions carried out between them.

Every `check_every_steps` steps lies a boundary, the only place where ranks exchange words: the losses of the interval that ends there
begin their way to the host, rank 0 learns the controller's answer to those of the boundary before, and all ranks hear it.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from raystage.config.duration import parse_duration
from raystage.data.reader import Reader, Wanted
from raystage.devices.programs import Programs
from raystage.models.count import flops_per_token, mfu
from raystage.pacing.point import Check, Decision, Point
from raystage.pacing.schedule import is_due
from raystage.pacing.state import State
from raystage.training.by_hand import decision_of, next_command
from raystage.training.carry_out import carry_out
from raystage.training.checkpoint import Stored
from raystage.training.control import Orders, share_ending, share_orders
from raystage.training.coordinator import Coordinator
from raystage.training.decision_record import Moment, is_made_stop, record_of
from raystage.training.errors import FencedError
from raystage.training.learning_rate import learning_rate_factor, rewarm_factor
from raystage.training.optimizer import largest_second_moment, set_learning_rate
from raystage.training.policy import policy_of
from raystage.training.ports import Ending
from raystage.training.profile_steps import StepProfiler
from raystage.training.run import Run
from raystage.training.signal_probe import ProbeSums, SignalProbe
from raystage.training.step import train_step
from raystage.training.step_log import Read, Step, StepLog, seen_at
from raystage.training.transition import TransitionReport

MOMENT_EVERY_STEPS = 20  # at the first boundary after so many Adam's second moments are read: it takes as much traffic as the model has
LISTEN_EVERY_S = 1.0  # how often ranks exchange a word on whether to go on, where steps take long


class Loop:
    """Trains a run from where it stands. `wants_others`: whether the stage with so many changes behind is for other workers."""

    def __init__(self, run: Run, resume: Stored | None, wants_others: Callable[[int], bool] = lambda position: False) -> None:
        self._wants_others = wants_others
        self._run, self._config, self._ranks, self._outside = run, run.config, run.ranks, run.outside
        self._reader = Reader(run.job.corpus.train_rows(run.config.model.context_length), run.config.seed, run.config.pacing.cutting)
        self._policy = policy_of(run.config)
        self._has_schedule = any(change.at is not None for change in self._policy.plan.changes)
        self._unrecorded = [] if resume else list(run.decisions)
        self._coordinator = self._make_coordinator(resume)
        self._decision: Decision | None = None
        self._steps = StepLog(run.device, run.ranks)
        self._signal_probe = (
            SignalProbe(run.config, run.validation_rows, run.device, run.ranks, run.job.attention_eot_id)
            if run.config.pacing.signal == "probe"
            else None
        )
        profiled = run.config.runtime.profile_steps if self._outside else 0
        self._profiler = StepProfiler(profiled, run.job.run_dir / "profile", run.device)
        self._points: list[Point] = []  # recorded, and not yet sent to the controller
        self._programs = Programs()
        self._bad_step = resume.manifest.first_bad_step if resume else None
        self._last_check: Check | None = None
        self._first_step = step = run.state.counters.step
        # an interval that another group began counts from its own boundary
        self._boundary_step = step - step % run.config.pacing.check_every_steps
        self._listen_every_steps = 1  # until the first boundary tells how long a step takes

    def train(self) -> Ending:
        """Trains to the end of the duration, or to a stop, or until another group of workers is to go on."""
        run = self._run
        run.record_start()
        for record in self._unrecorded:
            run.record_decision(record)
        with run.saver:
            if ending := self._begin():
                return self._end(ending)
            if self._wants_others(run.state.position):
                return self._leave()  # the group was made for another stage: what followed this checkpoint was lost, or rolled back
            while run.progress < 1.0:
                if self._has_reached_its_stop():
                    return self._stop_here()
                if self._carry_out_decisions() and self._wants_others(run.state.position):
                    return self._leave()
                if run.progress >= 1.0:
                    break
                self._profiler.around(run.state.position, self._train_one_step)
                if ending := self._hear():
                    return self._end(ending)
                self._collect(wait=False)
            self._finish()
        return "finished"

    def _begin(self) -> Ending | None:
        """Takes up what takes effect with the first step: an attempt before this one may have died carrying it out."""
        run, step = self._run, self._run.state.counters.step
        decision, stop = self._decide(step) if self._outside is not None else (None, False)
        orders = self._share(Orders(decision, False, "stopped" if stop else self._asked(), run.elapsed_s))
        self._decision = orders.decision
        return orders.ending

    def _hear(self) -> Ending | None:
        """At a boundary everything that ranks exchange; in long steps a word in between, so that a notice to leave is not missed."""
        step = self._run.state.counters.step
        if step % self._config.pacing.check_every_steps == 0:
            return self._boundary()
        if (step - self._boundary_step) % self._listen_every_steps == 0:
            return share_ending(self._ranks, self._asked())
        return None

    def _asked(self) -> Ending | None:
        """What is asked of rank 0 from outside."""
        state = self._run.state
        ask = self._outside.asked(state.counters.step, state.position) if self._outside is not None else None
        return {"stop": "stopped", "leave": "left", None: None}[ask]

    def _leave(self) -> Ending:
        """For the workers of another stage, who begin with the checkpoint that every change leaves; tells outside which stage it is."""
        self._asked()
        return "left"

    def _has_reached_its_stop(self) -> bool:
        stop_at = self._config.training.stop_at
        return stop_at is not None and self._run.state.counters.share_of(parse_duration(stop_at)) >= 1.0

    def _stop_here(self) -> Ending:
        """With a validation of where it stands, once."""
        if self._run.state.counters.step not in (self._first_step, self._run.validated_step):
            self._read_all()
            self._run.validate(stage_end=False)
        return self._end("stopped")

    def _end(self, ending: Ending) -> Ending:
        """Leaves with a checkpoint."""
        self._profiler.stop()
        self._answer_guard()
        self._save("stop")
        return ending

    def _answer_guard(self) -> None:
        """A rollback that is due comes before the run is left, or it would be forgotten."""
        self._read_all()
        self._decision = self._emergency(self._run.state.counters.step) or self._decision
        if self._decision is not None and self._decision.trigger == "guard":
            self._carry_out_decisions()

    # -- one step

    def _train_one_step(self) -> None:
        begin_s, run = time.perf_counter(), self._run
        state, counters, seq_len_tokens = run.state, run.state.counters, run.state.shape.seq_len_tokens
        step, progress = counters.step + 1, run.progress
        if self._config.model.dropout > 0:
            # a step's dropout depends on its number alone, so that a resumed run repeats it
            run.device.seed((self._config.seed * 1_000_003 + step) * 4099 + run.device.shares(self._ranks)[0])
        lr = run.peak_lr * self._rate_factor(step, progress)
        set_learning_rate(state.machinery.optimizer, lr)
        cut_, batch = self._reader.read(counters.place, self._wanted)
        loss_sum, grad_norm = train_step(
            state.machinery,
            batch,
            cut_.tokens,
            self._ranks,
            run.device,
            run.settings,
            run.job.attention_eot_id,
            n_sequences=len(cut_.position),
        )
        flops = cut_.tokens * flops_per_token(state.machinery.spec, seq_len_tokens)
        run.state = dataclasses.replace(state, counters=counters.after_step(cut_, flops))
        seconds = time.perf_counter() - begin_s
        record = {"kind": "train", **run.stamp(), "batch_crc32": self._reader.fingerprint(cut_)}
        self._steps.add(Step(record, seen_at(run, lr), cut_.tokens, flops, seconds, loss_sum, grad_norm))

    @property
    def _wanted(self) -> Wanted:
        run = self._run
        return Wanted(run.n_sequences, run.state.shape.seq_len_tokens, *run.device.shares(self._ranks))

    def where(self) -> tuple[int, list[int]]:
        """The step that is trained or comes next, and the rows of the corpus in its batch."""
        counters = self._run.state.counters
        return counters.step + 1, self._reader.row_numbers(self._reader.cut_at(counters.place, self._wanted))

    def _rate_factor(self, step: int, progress: float) -> float:
        counters, grown = self._run.state.counters, self._run.state.counters.grown_at_step
        rewarm = rewarm_factor(None if grown is None else step - grown, self._config.growth.rewarm_steps)
        return rewarm * learning_rate_factor(self._run.settings.schedule, step, progress, counters.lr_shift)

    # -- boundaries

    def _boundary(self) -> Ending | None:
        """Exchanges losses and orders between the ranks."""
        run = self._run
        run.saver.check()
        self._collect(wait=True)
        before, step = self._boundary_step, run.state.counters.step
        self._boundary_step = step
        if _crosses(self._config.validation.every_steps, before, step):
            self._steps.wait()  # the validation would wait too, and the steps would look as if they had taken no time
            run.validate(stage_end=False)
        orders = self._share(self._make_orders(before, step))
        self._decision = self._emergency(step) or orders.decision
        step_s = (orders.elapsed_s - run.state.counters.elapsed_s) / max(1, step - max(before, self._first_step))
        self._listen_every_steps = max(1, int(LISTEN_EVERY_S / max(step_s, 1e-6)))
        run.state = dataclasses.replace(run.state, counters=dataclasses.replace(run.state.counters, elapsed_s=orders.elapsed_s))
        self._note_programs(step)
        self._steps.start_read(self._measure_probe(), self._second_moment(before, step))
        self._collect(wait=False)
        if orders.save and self._decision is None and self._scheduled() is None and orders.ending is None:
            self._save("interval")
        return orders.ending

    def _second_moment(self, before: int, step: int) -> Tensor | None:
        """Adam's largest: at every boundary where the guard asks for it, or a device would have programs for two kinds of boundary."""
        run = self._run
        always = run.device.is_lazy or self._config.pacing.guard.second_moment_ratio is not None
        return largest_second_moment(run.state.machinery.optimizer) if always or _crosses(MOMENT_EVERY_STEPS, before, step) else None

    def _note_programs(self, step: int) -> None:
        """What the device has compiled since the last look: after the preflight there should be nothing more."""
        before, self._programs = self._programs, self._run.device.programs()
        if self._programs != before:
            new = dataclasses.asdict(self._programs.since(before))
            self._run.record({"kind": "compile", "step": step, **new, "attempt": self._run.job.attempt})

    def _measure_probe(self) -> ProbeSums | None:
        if self._signal_probe is None:
            return None
        state = self._run.state
        length, counters = state.shape.seq_len_tokens, state.counters
        sums = self._signal_probe.measure(state.machinery.trainee, length, self._run.settings.micro_batch)
        # a forward pass is a third of a step's work
        spent = sum(sums.n_targets) * flops_per_token(state.machinery.spec, length) / 3
        self._run.state = dataclasses.replace(state, counters=dataclasses.replace(counters, flops=counters.flops + spent))
        return sums

    def _collect(self, wait: bool) -> None:
        """Takes in losses once they have come from the device: records them, and sends them on when the last ones are answered."""
        read = self._steps.finish_read(wait)
        if read is None:
            return
        self._bad_step = self._bad_step or read.first_bad_step
        if self._outside is None:
            return
        self._record_steps(read)
        self._points += read.points
        if not self._coordinator.unresolved:
            self._coordinator.send(self._points)
            self._points = []

    def _read_all(self) -> None:
        """Waits for the losses of every step so far."""
        self._collect(wait=True)
        self._steps.start_read(None, None)
        self._collect(wait=True)

    def _record_steps(self, read: Read) -> None:
        shown = {"slope": self._last_check.slope if self._last_check else None, "mfu": mfu(read.flops_per_s, self._run.device.name)}
        for record in read.records:
            record.update(shown)
        self._run.record(*read.records)

    def _emergency(self, step: int) -> Decision | None:
        """A loss or gradient that is not finite has ruined the weights; every rank has seen it, so all act alike."""
        if self._bad_step is None:
            return None
        pacing = self._config.pacing
        seen_at = -(-self._bad_step // pacing.check_every_steps) * pacing.check_every_steps
        reason = f"a loss or gradient that is not finite, first in step {self._bad_step}"
        return Decision(pacing.guard.non_finite, self._run.state.taken, seen_at, step + 1, "guard", reason=reason)

    def _make_orders(self, before: int, step: int) -> Orders:
        if self._outside is None:
            return Orders(None, False, None, 0.0)
        if not self._outside.still_ours():
            raise FencedError(f"another attempt at run {self._config.name!r} has taken over; this one stops")
        self._resolve()
        settings, saved_for_s = self._config.checkpoint, time.perf_counter() - self._run.saved_s
        by_time = settings.every_minutes is not None and saved_for_s >= 60 * settings.every_minutes
        save = by_time or _crosses(settings.every_steps, before, step)
        decision, stop = self._decide(step)
        gives_up = stop or self._run.saver.has_given_up
        return Orders(decision, save, "stopped" if gives_up else self._asked(), self._run.elapsed_s)

    def _decide(self, step: int) -> tuple[Decision | None, bool]:
        """What takes effect with the step after this one, by hand or by the controller; and whether to stop here, by hand."""
        by_hand, due = self._by_hand(step), self._due(step + 1)
        if by_hand is not None and by_hand.action == "stop":
            self._note(by_hand)
            return None, True
        # unstable weights come first: what was said by hand comes at the next boundary
        waits = by_hand is None or (due is not None and (due.trigger == "guard" or by_hand.action == "refuse"))
        return (due if waits else by_hand), False

    def _share(self, orders: Orders) -> Orders:
        state = self._run.state
        return share_orders(self._ranks, orders, self._policy.plan, state.taken, state.counters.n_rollbacks)

    def _due(self, step: int) -> Decision | None:
        """The controller's decision for `step`; where pacing has been put on hold since, only the guard's."""
        counters = self._run.state.counters
        decision = self._coordinator.due(step, self._run.state.taken, counters.n_rollbacks)
        if decision is None or (counters.held and decision.trigger != "guard") or is_made_stop(decision, self._run.decisions):
            return None
        return decision

    def _by_hand(self, step: int) -> Decision | None:
        assert self._outside is not None
        if self._outside.commands is None:
            return None
        done = {record["command_id"] for record in self._run.decisions if record.get("command_id") is not None}
        command = next_command(self._outside.commands, done, step)
        return decision_of(command, self._policy.plan, self._run.state.taken, step) if command else None

    def _record_check(self, check: Check) -> None:
        self._last_check = check if check.stage == self._run.state.position else None
        self._run.record({"kind": "check", **vars(check)})
        if check.trouble_begins and not check.fired:
            held = Decision("hold", self._run.state.taken, check.step, check.step + 1, "guard", reason=check.reason)
            self._note(held)

    def _note(self, decision: Decision) -> None:
        """Records a decision that changes nothing on the other ranks."""
        shape = self._run.state.shape
        moment = Moment(shape, shape, self._run.state.counters, self._run.elapsed_s, self._run.val_loss)
        self._run.decide(record_of(decision, moment, len(self._run.decisions) + 1, TransitionReport("applied")))

    # -- decisions

    def _carry_out_decisions(self) -> bool:
        """What was ordered at the boundary, then what the schedule has for the next step; every rank knows the schedule by itself.

        True: there was something.
        """
        n_before = len(self._run.decisions)
        while (decision := self._decision or self._scheduled()) is not None:
            self._decision, self._last_check = None, None
            if decision.trigger != "guard":
                self._read_all()
                if self._bad_step is not None:
                    return False  # ruined weights change no stage and are not saved: the rollback comes at the next boundary
            carry_out(self._run, decision, self._save)
            if decision.action == "rollback":
                self._bad_step = None
        return len(self._run.decisions) > n_before

    def _scheduled(self) -> Decision | None:
        state = self._run.state
        if state.counters.held or not self._has_schedule:
            return None
        step, progress = state.counters.step, self._run.progress
        for track, change in self._policy.plan.heads(state.taken):
            if change.at is not None and is_due(progress, change.at):
                return Decision("change", state.taken, step, step + 1, "schedule", track, change, reason=f"{change.at:.4g} of the duration")
        return None

    def _save(self, reason: str, **how: Any) -> None:
        # steps that the controller has not answered belong into the checkpoint, also those after the last boundary
        self._read_all()
        if self._bad_step is not None and reason in ("interval", "stop"):
            return  # these weights are ruined: a checkpoint of them would pass for good
        self._run.save(reason, self._coordinator.state, (*self._coordinator.unresolved, *self._points), **how)

    def _finish(self) -> None:
        run = self._run
        self._profiler.stop()
        self._collect(wait=True)
        self._resolve()
        self._answer_guard()
        run.validate(stage_end=True)
        self._save("end", pinned=True)
        run.saver.wait()  # the end is told when it is safe
        run.record({"kind": "end", "step": run.state.counters.step, **run.stamp()})

    def _resolve(self) -> None:
        if self._outside is not None:
            for check in self._coordinator.resolve():
                self._record_check(check)

    def _make_coordinator(self, resume: Stored | None) -> Coordinator:
        remote = self._outside.remote if self._outside else None
        if resume is not None:
            return Coordinator(self._policy, resume.manifest.controller, resume.manifest.unresolved, remote)
        state = self._run.state
        start = State.at(state.taken, state.counters.step, state.counters.tokens_seen, state.counters.n_rollbacks)
        return Coordinator(self._policy, start, (), remote)


def _crosses(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every
