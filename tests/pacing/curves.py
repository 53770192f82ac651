"""Made loss curves whose slope crosses a threshold at a known place, and the run that a controller makes of them."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from raystage.config import from_tree
from raystage.pacing.controller import observe
from raystage.pacing.point import Check, Decision, Point
from raystage.pacing.policy import Policy
from raystage.pacing.schedule import is_due
from raystage.pacing.stage import Plan, Shape, make_track, take
from raystage.pacing.state import State
from raystage.training.policy import policy_of

BATCH_TOKENS = 2048
FLOPS_PER_TOKEN = 6.0 * 30_000
DEVIATION = 0.02  # of the loss of one step, relative, at BATCH_TOKENS
PEAK_LR = 1e-3

Rate = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """loss = amplitude * (compute - origin)^-exponent + floor: what a stage that begins at `origin` looks like."""

    amplitude: float
    exponent: float
    floor: float
    origin: float = 0.0

    def loss(self, compute: float) -> float:
        return self.amplitude * (compute - self.origin) ** -self.exponent + self.floor

    def slope(self, compute: float) -> float:
        """d log(loss) / d log(compute) at one point."""
        return -self.exponent * (1 - self.floor / self.loss(compute)) * compute / (compute - self.origin)


def compute_at(step: float) -> float:
    return step * BATCH_TOKENS * FLOPS_PER_TOKEN


def crossing_at(step: float, threshold: float, exponent: float = 0.3, floor: float = 2.5, origin_step: float = 0.0) -> PowerLaw:
    """The law whose slope is exactly `threshold` at `step` steps of BATCH_TOKENS; steeper before, flatter after."""
    above = -threshold / exponent * (step - origin_step) / step  # share of the loss that is above the floor there
    amplitude = floor * above / (1 - above) * compute_at(step - origin_step) ** exponent
    return PowerLaw(amplitude, exponent, floor, compute_at(origin_step))


def ar1(seed: int, n: int, rho: float, deviation: float = DEVIATION) -> NDArray[np.float64]:
    """`n` values of a stationary AR(1) process with mean 0 and this standard deviation."""
    innovations = np.random.default_rng(seed).normal(0, deviation * math.sqrt(1 - rho**2), n)
    innovations[0] /= math.sqrt(1 - rho**2)
    return np.asarray(lfilter([1.0], [1.0, -rho], innovations))


def constant_rate(step: int) -> float:
    return PEAK_LR


def wsd_rate(n_steps: int, warmup_steps: int, decay_steps: int) -> Rate:
    """Warmup, plateau and linear decay to a tenth."""

    def rate(step: int) -> float:
        done = max(0.0, (step - (n_steps - decay_steps)) / decay_steps)
        return PEAK_LR * min(1.0, step / warmup_steps) * (1 - 0.9 * done)

    return rate


def slope_policy(plan: Plan | None = None, threshold: float = -0.1, **changed: object) -> Policy:
    """A policy of short spans at BATCH_TOKENS, with one threshold for all kinds of change; `changed`: its fields by name."""
    policy = Policy(
        plan=plan or length_plan(1),
        thresholds=dict.fromkeys(("length", "depth", "width", "both", "batch"), threshold),
        check_every_steps=10,
        checks_in_a_row=2,
        confidence=0.95,
        window_fraction=0.85,
        settle_tokens=20 * BATCH_TOKENS,
        min_dwell_tokens=80 * BATCH_TOKENS,
        max_dwell_tokens=None,
    )
    return dataclasses.replace(policy, **changed)  # type: ignore[arg-type]


def default_policy(plan: Plan | None = None, threshold: float = -0.1) -> Policy:
    """The configuration's own defaults at BATCH_TOKENS, with one threshold for all kinds of change."""
    policy = policy_of(from_tree({}, [f"training.batch_tokens={BATCH_TOKENS}"]))
    thresholds = dict.fromkeys(policy.thresholds, threshold) | {"stop": None}
    return dataclasses.replace(policy, plan=plan or length_plan(1), thresholds=thresholds)


def length_plan(n_changes: int) -> Plan:
    lengths = [8 * 2 ** (i + 1) for i in range(n_changes)]
    return Plan(Shape(8, 2, 64, BATCH_TOKENS), (make_track({"length": lengths}, ["length"] * n_changes),))


@dataclasses.dataclass(frozen=True)
class MadeRun:
    """What the controller did: `decisions` in order, every check, and the points it saw."""

    decisions: list[Decision]
    checks: list[Check]
    points: list[Point]
    state: State


def run(
    policy: Policy,
    laws: Sequence[PowerLaw],
    noise: NDArray[np.float64],
    start_step: int = 0,
    rate: Rate = constant_rate,
    jump: float = 0.0,
    jump_steps: float = 6.0,
    stop_at_first: bool = False,
    edit: Callable[[Point], Point] = lambda point: point,
) -> MadeRun:
    """A run of len(noise) steps on `laws`, one a stage, each change applied at its effective step, scheduled ones at their share.

    `jump`: relative rise of the loss at each change, gone within some `jump_steps`; a rate below the peak
    lifts the loss too when it warms up, and lowers it when it decays. `edit` has the last word on each point.
    """
    taken, changed_at = policy.plan.untouched, -math.inf
    state = State.at(taken, start_step, float(start_step * BATCH_TOKENS))
    decisions: list[Decision] = []
    checks: list[Check] = []
    points: list[Point] = []
    n_steps = start_step + len(noise)
    for step in range(start_step + 1, n_steps + 1):
        before = taken
        pending = state.pending
        if pending is not None and pending.action == "change" and pending.effective_step == step:
            taken = take(taken, pending.track)
        while due_tracks := [
            t for t, change in policy.plan.heads(taken) if change.at is not None and is_due((step - 1) / n_steps, change.at)
        ]:
            taken = take(taken, due_tracks[0])
        changed_at = step if taken != before else changed_at
        compute = compute_at(step)
        lift = jump * math.exp(-(step - changed_at) / jump_steps) + _rate_effect(rate, step, n_steps)
        loss = laws[min(sum(taken), len(laws) - 1)].loss(compute) * (1 + lift) * (1 + float(noise[step - start_step - 1]))
        points.append(edit(Point(step, loss, step * BATCH_TOKENS, compute, float(step), rate(step), step / n_steps, taken)))
        if step % policy.check_every_steps and step < n_steps:
            continue
        state, due = observe(policy, state, points[state.watermark - start_step :])
        checks += due
        if due and due[-1].fired:
            assert state.pending is not None
            decisions.append(state.pending)
            if stop_at_first:
                break
    return MadeRun(decisions, checks, points, state)


def first_fired(policy: Policy, law: PowerLaw, noise: NDArray[np.float64], start_step: int, every_steps: int) -> int | None:
    """The step of the first decision of a long stage on `law`, checked every `every_steps`; None: there was none.

    The controller sees one point for all steps between two checks, their mean, which is what it would make of them itself.
    """
    policy = dataclasses.replace(policy, check_every_steps=1)
    n_checks = len(noise) // every_steps
    steps = start_step + 1 + np.arange(n_checks * every_steps)
    compute = steps * (BATCH_TOKENS * FLOPS_PER_TOKEN)
    losses = (law.amplitude * (compute - law.origin) ** -law.exponent + law.floor) * (1 + noise[: len(steps)])
    loss, log_compute = losses.reshape(n_checks, -1).mean(axis=1), np.log10(compute).reshape(n_checks, -1).mean(axis=1)
    state = State.at((0,), 0, float(start_step * BATCH_TOKENS))
    for check in range(n_checks):
        step = start_step + (check + 1) * every_steps
        point = Point(check + 1, float(loss[check]), float(step * BATCH_TOKENS), 10 ** log_compute[check], 0.0, PEAK_LR, 0.0, (0,))
        state, _ = observe(policy, state, [point])
        if state.pending is not None:
            return step
    return None


def _rate_effect(rate: Rate, step: int, n_steps: int) -> float:
    missing = 1 - rate(step) / PEAK_LR
    return 0.3 * missing if step < n_steps / 2 else -0.1 * missing
