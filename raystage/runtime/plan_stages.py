"""The stages that a run is expected to have: how long each lasts, and what it costs."""

import dataclasses
from collections.abc import Sequence

from raystage.config import Config
from raystage.config.duration import parse_duration
from raystage.config.sizes import planned_vocab_size
from raystage.models.count import flops_per_token, matmul_parameters
from raystage.models.spec import ModelSpec
from raystage.pacing.chinchilla import tokens_at_slope
from raystage.pacing.policy import Policy
from raystage.pacing.stage import Change, Shape
from raystage.training.counters import Counters
from raystage.training.policy import plan_of, policy_of
from raystage.training.stage_model import spec_of


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """`tokens`, `flops`, `seconds` (None: not measured) of the stage, 0 where the run is expected to end before it.

    `ended_by`: None for the last. `by_clock`: the end is known; else it is a guess from a law of the loss, within the dwell that the
    configuration allows; `latest`: the share of the duration at which it ends whatever its slope, where there is one.
    """

    shape: Shape
    spec: ModelSpec
    tokens: float
    flops: float
    seconds: float | None
    ended_by: Change | None
    by_clock: bool
    latest: float | None = None


def planned_stages(config: Config, seconds_per_token: Sequence[float] | None = None) -> list[PlannedStage]:
    """The stages in the plan's order, up to the end of the duration; `seconds_per_token`: of every stage of the plan, if measured.

    A run whose duration is in hours needs them; without, its stages share the tokens of the plan evenly and count as guesses.
    """
    plan, policy = plan_of(config), policy_of(config)
    changes = sorted(plan.changes, key=lambda change: change.at or 0.0) if all(c.at is not None for c in plan.changes) else plan.changes
    vocab_size = planned_vocab_size(config)
    stages: list[PlannedStage] = []
    shape, effective, done = plan.start, 0.0, 0.0
    for number, change in enumerate([*changes, None]):
        spec = spec_of(config, shape, vocab_size, eot_id=0)
        speed = seconds_per_token[number] if seconds_per_token else None
        per_token = _share_per_token(config, shape, spec, speed)
        by_clock = change is None or change.at is not None
        latest = None if by_clock else policy.last_call(sum(c.at is None for c in changes[number:]))
        end = (change.at if change else None) or latest or 1.0
        tokens = max(0.0, end - done) / per_token
        if change is not None and change.at is None:
            # a last call that is past still lets the stage settle
            tokens = min(_dwell(policy, change, spec, effective), max(tokens, policy.min_dwell_tokens), max(0.0, 1.0 - done) / per_token)
        flops = tokens * flops_per_token(spec, shape.seq_len_tokens)
        seconds = None if speed is None else tokens * speed
        stages.append(PlannedStage(shape, spec, tokens, flops, seconds, change, by_clock, latest))
        if change is None:
            break
        done, effective = done + tokens * per_token, effective + tokens
        counters = Counters(effective_tokens=effective).after_growth(change, shape, config.growth, progress=0.0)
        effective, shape = counters.effective_tokens, shape.after(change)
    return stages


def _dwell(policy: Policy, change: Change, spec: ModelSpec, effective_tokens: float) -> float:
    """[tokens] until the slope passes its threshold, by the law."""
    n_parameters = matmul_parameters(spec)
    try:
        wanted = tokens_at_slope(n_parameters, policy.threshold(change))
    except ValueError:
        wanted = 0.0  # steeper than the law ever is: passed at once
    if change.grows:
        wanted = max(wanted, policy.min_tokens_per_parameter * n_parameters)
    return min(max(wanted - effective_tokens, policy.min_dwell_tokens), policy.max_dwell_tokens or float("inf"))


def _share_per_token(config: Config, shape: Shape, spec: ModelSpec, seconds_per_token: float | None) -> float:
    """The share of the duration that one token of a stage takes."""
    duration, training = parse_duration(config.training.duration), config.training
    if duration.unit == "tokens":
        return 1 / duration.amount
    if duration.unit == "flops":
        return flops_per_token(spec, shape.seq_len_tokens) / duration.amount
    if duration.unit == "steps":
        length = shape.seq_len_tokens if training.batch_rule == "tokens" else config.model.context_length
        return 1 / (duration.amount * max(1, shape.batch_tokens // length) * shape.seq_len_tokens)
    seconds = 1e-6 if seconds_per_token is None else seconds_per_token
    return seconds / (3600 * duration.amount)
