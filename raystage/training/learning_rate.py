"""The learning rate as a function of step and progress."""

import math

from raystage.config.schema import Schedule


def learning_rate_factor(schedule: Schedule, step: int, progress: float, shift: float = 0.0) -> float:
    """Share of the peak rate for `step` (from 1), when `progress` of the duration lies behind, 0 to 1.

    `shift`: how far growth has put the schedule back. It moves the cosine and the line; wsd stays on its
    plateau and decays over the last share of the real duration, so that a run ends decayed.
    """
    warmup = min(1.0, step / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    return warmup * _shape(schedule, progress, max(0.0, progress - shift))


def _shape(schedule: Schedule, progress: float, shifted: float) -> float:
    floor = schedule.floor_fraction
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "wsd":
        done = (progress - (1 - schedule.decay_fraction)) / schedule.decay_fraction
        return 1.0 - (1 - floor) * min(1.0, max(0.0, done))
    if schedule.kind == "linear":
        return 1.0 - (1 - floor) * min(1.0, shifted)
    done = min(1.0, shifted / schedule.cosine_until)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def rewarm_factor(steps_since_growth: int | None, rewarm_steps: int) -> float:
    """Linear warmup after a growth: share of the rate for the n-th step after it, from 1; None: never grown."""
    if steps_since_growth is None or rewarm_steps == 0:
        return 1.0
    return min(1.0, steps_since_growth / rewarm_steps)
