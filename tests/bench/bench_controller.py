"""CPU time that the controller costs a training step, as a share of a 10 ms step."""

import math
import random
import time

from raystage.config import load
from raystage.pacing.controller import Point, State, observe
from raystage.training.policy import policy_of
from tests.bench.result import Result

STEP_S = 0.010
TARGET_S = 200e-6


def run() -> Result:
    """The quickstart's own policy over 20,000 steps of a made curve, in batches of one interval."""
    policy = policy_of(load("tune_configs/quickstart.yaml"))
    noise, ratios = random.Random(0), []
    for _ in range(3):
        state, begin_s = State(), time.process_time()
        for first in range(1, 20_001, policy.check_every_steps):
            points = [_point(step, noise, state.position) for step in range(first, first + policy.check_every_steps)]
            state, _checks = observe(policy, state, points)
        ratios.append((time.process_time() - begin_s) / 20_000 / STEP_S)
    cost_us = ratios[-1] * STEP_S * 1e6
    return Result("controller, CPU time a step", "a step of 10 ms", "x", tuple(ratios), f"<= {TARGET_S / STEP_S:.2f}", f"{cost_us:.0f} us")


def _point(step: int, noise: random.Random, position: int) -> Point:
    tokens = 2048.0 * step
    loss = 2 + 40 * math.pow(tokens, -0.25) + noise.gauss(0, 0.05)
    return Point(step, loss, tokens, tokens * 1e6, 1e-3, 0.0, position)
