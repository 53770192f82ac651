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
from raystage.pacing.controller import Decision
from raystage.training.state import TrainState, assemble

Probe = Callable[[nn.Module], float]


@dataclasses.dataclass(frozen=True)
class TransitionReport:
    """What a change did; the probe losses are None where the model stayed as it was."""

    outcome: Literal["applied", "refused"]
    probe_before: float | None = None
    probe_after: float | None = None


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
    spec = dataclasses.replace(old.spec, n_layer=shape.n_layer, d_model=shape.d_model)
    noise_scale = config.growth.noise_scale if config.growth.symmetry == "noise" else 0.0
    seed = growth_seed(config.seed, decision.decision_id)
    tensors = grow(old.tensors(), old.spec, spec, noise_scale=noise_scale, seed=seed)
    new = assemble(spec, config, device, ranks, tensors)
    before, after = probe(old.trainee), probe(new.trainee)
    # not (a <= b), so that a loss that is not a number is refused too
    if not abs(after - before) <= config.growth.probe_tolerance * abs(before):
        return dataclasses.replace(state, position=state.position + 1), TransitionReport("refused", before, after)
    counters = state.counters.after_growth(decision.change, state.shape, config.growth, state.counters.progress(duration))
    return TrainState(new, shape, state.position + 1, counters), TransitionReport("applied", before, after)


def growth_seed(run_seed: int, decision_id: int) -> int:
    """The seed of one growth, the same on every rank and in every repetition."""
    return run_seed * 1_000_003 + decision_id
