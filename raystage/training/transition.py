"""A change of stage applied to the training state: length by a number, growth by new tensors behind a gate."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from torch import nn

from raystage.config.duration import Duration
from raystage.config.schema import Config
from raystage.devices import Device
from raystage.devices.ranks import Ranks
from raystage.growth import grow
from raystage.growth.gate import holds
from raystage.pacing.controller import Decision
from raystage.training.policy import method_of, peak_lr, spec_of
from raystage.training.state import TrainState, assemble

Probe = Callable[[nn.Module], float]


@dataclasses.dataclass(frozen=True)
class TransitionReport:
    """What a change did; the probe losses are None where the model stayed as it was.

    After a growth: the peak rate of the new size, the share of the duration at which the schedule goes on, and the
    steps of warmup.
    """

    outcome: Literal["applied", "refused"]
    probe_before: float | None = None
    probe_after: float | None = None
    lr_peak: float | None = None
    lr_position: float | None = None
    rewarm_steps: int | None = None


def apply_length(state: TrainState, decision: Decision) -> tuple[TrainState, TransitionReport]:
    """The same model on longer sequences."""
    shape = state.shape.after(decision.change)
    return dataclasses.replace(state, shape=shape, position=state.position + 1), TransitionReport("applied")


def apply_growth(
    state: TrainState, decision: Decision, config: Config, duration: Duration, device: Device, ranks: Ranks, probe: Probe
) -> tuple[TrainState, TransitionReport]:
    """The grown state, or the old one when the probe's loss moved by more than the tolerance.

    Every rank grows the same tensors from the same seed, so nothing travels.
    """
    old = state.machinery
    shape = state.shape.after(decision.change)
    spec = spec_of(config, shape, old.spec.vocab_size, old.spec.eot_id)
    method = method_of(config, decision.decision_id)
    new = assemble(spec, config, device, ranks, grow(old.tensors(), old.spec, spec, method))
    before, after = probe(old.trainee), probe(new.trainee)
    passes = holds(before, after, config.growth.probe_tolerance, method.preserves(old.spec, spec))
    # rank 0's word counts: ranks of unlike hardware may stand on either side of the tolerance
    if not ranks.from_first([int(passes)])[0]:
        return dataclasses.replace(state, position=state.position + 1), TransitionReport("refused", before, after)
    progress = state.counters.progress(duration)
    counters = state.counters.after_growth(decision.change, state.shape, config.growth, progress)
    report = TransitionReport(
        "applied",
        before,
        after,
        lr_peak=peak_lr(config, shape),
        lr_position=progress - counters.lr_shift,
        rewarm_steps=config.growth.rewarm_steps,
    )
    return TrainState(new, shape, state.position + 1, counters), report
