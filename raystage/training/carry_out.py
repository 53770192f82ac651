"""Decisions carried out: a change of stage, a hold, a rollback, an end; each one recorded and followed by a checkpoint."""

import dataclasses
import functools
import gc
import time
from collections.abc import Callable
from typing import Any

from raystage.pacing.point import Decision
from raystage.training.decision_record import Moment, record_of
from raystage.training.errors import TrainingError
from raystage.training.rollback import REASON, choose_target, roll_back
from raystage.training.run import Run
from raystage.training.sharding import shards
from raystage.training.transition import TransitionReport, apply_growth, apply_shape

Save = Callable[..., None]  # Run.save with the controller's state filled in


def carry_out(run: Run, decision: Decision, save: Save) -> None:
    """Applies a decision before the step that it takes effect with, on every rank alike. Raises TrainingError where it ends the run."""
    if decision.action == "change":
        run.validate(stage_end=True)
    begin_s, step = time.perf_counter(), run.state.counters.step
    if decision.action == "change":
        _change_stage(run, decision, save)
    elif decision.action == "rollback":
        _roll_back(run, decision, save)
    elif decision.action == "stop" and decision.trigger == "guard":
        _record(run, decision, _moment(run), TransitionReport("applied"))
        save("guard", pinned=True)
        raise TrainingError(
            f"training is unstable at step {decision.check_step}{f' ({decision.reason})' if decision.reason else ''} and pacing.guard says "
            f"stop; start a new run from a checkpoint before that step (init_from.path, {run.store.folder}) with a lower "
            "training.optimizer.lr or training.optimizer.clip_norm, or one whose guard rolls back"
        )
    elif decision.action == "stop":
        assert decision.trigger == "slope", "a stop by hand is an order of its own"
        _end(run, decision, save)
    else:
        _hold(run, decision, save)
    run.record({"kind": "pause", "step": step, "pause_s": time.perf_counter() - begin_s, "attempt": run.job.attempt})


def _change_stage(run: Run, decision: Decision, save: Save) -> None:
    """Change, record, save; growth pins the state before it."""
    assert decision.change is not None
    moment = _moment(run)
    if not decision.change.grows:
        run.state, report = apply_shape(run.state, decision)
    else:
        before = functools.partial(save, f"before-{run.state.position + 1}", pinned=True, frozen=True)
        try:
            grown, report = apply_growth(run.state, decision, run.config, run.job.duration, run.device, run.ranks, run.gate_loss)
        except Exception:  # raised again: whatever ended the growth, the state before it is worth keeping
            if not shards(run.config, run.ranks):
                before()  # of shards every rank has to write its own, and the others may still be growing
            raise
        # growth leaves the old tensors as they are, so they are written while training goes on with the new ones
        before()
        run.state = grown
        _let_go(run)
        if report.outcome == "refused":
            run.saver.wait()  # training goes on with the tensors that are being written
    _record(run, decision, dataclasses.replace(moment, after=moment.before.after(decision.change)), report)
    save("stage")


def _roll_back(run: Run, decision: Decision, save: Save) -> None:
    """Back to the last checkpoint from before the trouble, with the data moved on; never for ever."""
    counters, limit = run.state.counters, run.config.pacing.guard.max_rollbacks
    trouble = f"{decision.reason}, seen at step {decision.check_step}"
    run.saver.wait()
    every, rollbacks = run.config.pacing.check_every_steps, [record for record in run.decisions if "restored_step" in record]
    target = choose_target(run.store, decision.check_step - every, rollbacks, every, run.ranks)
    if target is None or counters.n_rollbacks >= limit:
        why = f"after {counters.n_rollbacks} rollbacks" if target else "and there is no earlier checkpoint to go back to"
        raise TrainingError(
            f"training failed: {trouble}, {why}; lower training.optimizer.lr or training.optimizer.clip_norm and start a new run"
        )
    moment = _moment(run)
    # what is restored takes its memory; where it stood is asked for if that fails
    run.state = dataclasses.replace(run.state, machinery=None)  # type: ignore[arg-type]
    _let_go(run)
    run.state = roll_back(counters, target, run.job, run.device, run.ranks)
    run.val_loss = target.manifest.val_loss
    more = {
        "restored_step": target.manifest.counters.step,
        "restored": target.folder.name if run.ranks.is_first else None,
        "n_rollbacks": run.state.counters.n_rollbacks,
    }
    _record(run, decision, dataclasses.replace(moment, after=run.state.shape), TransitionReport("applied"), **more)
    save(REASON)


def _end(run: Run, decision: Decision, save: Save) -> None:
    """The slope says that more training does not pay: what is left is the decay of the learning rate."""
    schedule, moment = run.settings.schedule, _moment(run)
    decay_fraction = schedule.decay_fraction if schedule.kind == "wsd" else 0.0
    counters = run.state.counters.after_stop(run.job.duration, decay_fraction)
    run.state = dataclasses.replace(run.state, counters=counters)
    _record(run, decision, moment, TransitionReport("applied"), duration_share=counters.duration_share)
    save("stage")


def _hold(run: Run, decision: Decision, save: Save) -> None:
    """Pacing waits, or goes on, by hand; or a command by hand that the plan has nothing for."""
    if decision.action != "refuse":
        counters = dataclasses.replace(run.state.counters, held=decision.action == "hold")
        run.state = dataclasses.replace(run.state, counters=counters)
    _record(run, decision, _moment(run), TransitionReport("refused" if decision.action == "refuse" else "applied"))
    save("stage")


def _let_go(run: Run) -> None:
    """Of a model that is not used any more: FSDP2's modules and compiled blocks are in cycles, which Python would collect when it likes."""
    if run.config.training.compile or shards(run.config, run.ranks):
        gc.collect()


def _moment(run: Run) -> Moment:
    shape = run.state.shape
    return Moment(shape, shape, run.state.counters, run.elapsed_s, run.val_loss)


def _record(run: Run, decision: Decision, moment: Moment, report: TransitionReport, **more: Any) -> None:
    run.decide(record_of(decision, moment, len(run.decisions) + 1, report, **more))
