"""A change of stage applied to the training state: length and batch by a number, growth by new tensors behind a gate."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from raystage.config.duration import Duration
from raystage.config.schema import Config
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.growth import grow
from raystage.growth.gate import holds
from raystage.pacing.point import Decision
from raystage.pacing.stage import Change, take
from raystage.training.machinery import equip
from raystage.training.sharding import grow_sharded, sharding_of, shards
from raystage.training.stage_model import method_of, peak_lr, spec_of
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


def apply_shape(state: TrainState, decision: Decision) -> tuple[TrainState, TransitionReport]:
    """The same model on other batches: longer sequences, more tokens."""
    shape = state.shape.after(_change(decision))
    return dataclasses.replace(state, shape=shape, taken=take(state.taken, decision.track)), TransitionReport("applied")


def apply_growth(
    state: TrainState, decision: Decision, config: Config, duration: Duration, device: Device, ranks: Ranks, probe: Probe
) -> tuple[TrainState, TransitionReport]:
    """The grown state, or the old one when the probe's loss moved by more than the tolerance.

    Every rank grows the same tensors from the same seed, so nothing travels but the shards of a sharded state, one parameter at a time.
    """
    old, change = state.machinery, _change(decision)
    shape, taken = state.shape.after(change), take(state.taken, decision.track)
    spec = spec_of(config, shape, old.spec.vocab_size, old.spec.eot_id)
    method = method_of(config, sum(taken))
    if shards(config, ranks):
        new = equip(*grow_sharded(old.tensors(), old.spec, spec, method, sharding_of(config, device, ranks)), config, device, ranks)
    else:
        tensors = old.tensors()
        if device.is_lazy:  # there every tensor's map would be a program to compile, and its noise another one
            tensors = tensors.to(torch.device("cpu"))
        new = assemble(spec, config, device, ranks, grow(tensors, old.spec, spec, method))
    before, after = probe(old.trainee), probe(new.trainee)
    passes = holds(before, after, config.growth.probe_tolerance, method.preserves(old.spec, spec))
    # rank 0's word counts: ranks of unlike hardware may stand on either side of the tolerance
    if not ranks.from_first([int(passes)])[0]:
        return dataclasses.replace(state, taken=taken), TransitionReport("refused", before, after)
    progress = state.counters.progress(duration)
    counters = state.counters.after_growth(change, state.shape, config.growth, progress)
    report = TransitionReport(
        "applied",
        before,
        after,
        lr_peak=peak_lr(config, shape),
        lr_position=progress - counters.lr_shift,
        rewarm_steps=config.growth.rewarm_steps,
    )
    return TrainState(new, shape, taken, counters), report


def _change(decision: Decision) -> Change:
    assert decision.change is not None
    return decision.change
