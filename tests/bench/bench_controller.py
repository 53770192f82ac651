"""CPU time of the controller: of one `observe` with a million points behind it, and of a training step; and the size of its state."""

import dataclasses
import json
import math
import random
import statistics
import time

from raystage.config import load
from raystage.pacing.controller import observe
from raystage.pacing.point import Point
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Taken
from raystage.pacing.state import State
from raystage.training.policy import policy_of
from tests.bench.result import Result

TARGET_S = 1e-3
MILLION = 1_000_000
MOST_STATE_BYTES = 100_000


def run() -> Result:
    """The quickstart's own policy on a made curve, in batches of one interval, in a first stage that lasts a million steps."""
    policy = policy_of(load("tune_configs/quickstart.yaml", ["pacing.max_dwell_tokens=null", "pacing.thresholds.length=-1e-9"]))
    every, noise = policy.check_every_steps, random.Random(0)
    state, seconds = _advance(policy, State.at(policy.plan.untouched), noise, 20_000)
    step_us = seconds / 20_000 * 1e6
    # checked more rarely on the way to a million, to get there sooner; bins of so many steps are no shorter than those anyhow
    state, _ = _advance(dataclasses.replace(policy, check_every_steps=1000), state, noise, MILLION)
    ratios = []
    for _ in range(200):
        state, seconds = _advance(policy, state, noise, state.watermark + every)
        ratios.append(seconds / TARGET_S)
    n_bytes = len(json.dumps(state.to_json()))
    assert n_bytes < MOST_STATE_BYTES, f"the state has {n_bytes} bytes"
    detail = f"{statistics.median(ratios) * TARGET_S * 1e6:.0f} us; {step_us:.0f} us a step; state {n_bytes / 1000:.0f} kB"
    return Result("controller, one observe", "1 ms of CPU, a million points behind", "x", tuple(ratios), "<= 1.00", detail)


def _advance(policy: Policy, state: State, noise: random.Random, last: int) -> tuple[State, float]:
    """The state at step `last`, and the CPU seconds that `observe` took to get there."""
    seconds = 0.0
    for first in range(state.watermark + 1, last + 1, policy.check_every_steps):
        points = [_point(step, noise, state.taken) for step in range(first, min(first + policy.check_every_steps, last + 1))]
        begin_s = time.process_time()
        state, _checks = observe(policy, state, points)
        seconds += time.process_time() - begin_s
    assert state.watermark == last
    return state, seconds


def _point(step: int, noise: random.Random, taken: Taken) -> Point:
    tokens = 2048.0 * step
    loss = 2 + 40 * math.pow(tokens, -0.25) + noise.gauss(0, 0.05)
    return Point(step, loss, tokens, tokens * 1e6, 0.01 * step, 1e-3, 0.0, taken)
