"""From the configuration to the plan of stages and the controller's policy."""

import itertools

from raystage.config.duration import parse_duration
from raystage.config.pacing import MIN_DWELL_STEPS, SETTLE_STEPS
from raystage.config.schema import Config
from raystage.pacing.policy import GuardPolicy, Policy
from raystage.pacing.schedule import filled_lengths, last_calls, rising_shares
from raystage.pacing.slope import MIN_POINTS
from raystage.pacing.stage import BOTH, KINDS, Change, Plan, Shape, make_track


def plan_of(config: Config) -> Plan:
    """The first stage and the changes that the pacing lists ask for; a null list stays at the target.

    One track in the order given, or one a kind where the order is free; rules for the length have a track of their own.
    """
    pacing, values = config.pacing, values_of(config)
    start = Shape(*(values[kind][0] for kind in KINDS))
    rest = {kind: given[1:] for kind, given in values.items()}
    tracks: list[tuple[Change, ...]] = []
    if pacing.rule not in ("slope", "table", "constant"):
        tracks.append(make_track({"length": rest.pop("length")}, ["length"] * (len(values["length"]) - 1), length_shares(config)))
    if pacing.order == "free":
        tracks += [make_track({kind: given}, [kind] * len(given)) for kind, given in rest.items()]
    else:
        order = [BOTH if entry == "both" else entry for entry in pacing.order or ()]
        order = order or [kind for kind, given in rest.items() for _ in given]
        tracks.append(make_track(rest, order, pacing.at if pacing.rule == "table" else None))
    return Plan(start, tuple(track for track in tracks if track))


def values_of(config: Config) -> dict[str, tuple[int, ...]]:
    """The values that each kind takes, the first stage's included."""
    pacing, model = config.pacing, config.model
    lengths = pacing.lengths or (model.context_length,)
    if pacing.warmup.step_tokens is not None:
        fixed = list(lengths)
        filled = [n for low, high in itertools.pairwise(fixed) for n in filled_lengths(low, high, pacing.warmup.step_tokens)]
        lengths = tuple(sorted({*filled, *fixed}))
    return {
        "length": lengths,
        "depth": pacing.depths or (model.n_layer,),
        "width": pacing.widths or (model.d_model,),
        "batch": pacing.batches or (config.training.batch_tokens,),
    }


def length_shares(config: Config) -> list[float]:
    """Shares of the duration at which the lengths but the first begin, under a rule of their own."""
    pacing = config.pacing
    if pacing.rule == "discrete":
        return list(pacing.at or ())
    return rising_shares(values_of(config)["length"], pacing.warmup.fraction, pacing.warmup.degree if pacing.rule == "root" else 1.0)


def policy_of(config: Config) -> Policy:
    """The controller's policy, its null spans filled in from the batch size."""
    pacing, batch_tokens = config.pacing, config.training.batch_tokens
    thresholds, guard = pacing.thresholds, pacing.guard
    settle_tokens = SETTLE_STEPS * batch_tokens if pacing.settle_tokens is None else pacing.settle_tokens
    min_dwell_tokens = MIN_DWELL_STEPS * batch_tokens if pacing.min_dwell_tokens is None else pacing.min_dwell_tokens
    rest_share = _rest_share(config, settle_tokens, min_dwell_tokens)
    plan, schedule = plan_of(config), config.training.schedule
    n_by_slope = plan.n_by_slope(plan.untouched)
    decay_begins = 1 - schedule.decay_fraction if schedule.kind == "wsd" else 1.0
    return Policy(
        plan=plan,
        thresholds={
            "length": thresholds.length,
            "depth": thresholds.depth,
            "width": thresholds.width,
            "both": thresholds.both,
            "batch": thresholds.batch,
            "stop": thresholds.stop,
        },
        check_every_steps=pacing.check_every_steps,
        checks_in_a_row=pacing.checks_in_a_row,
        confidence=pacing.confidence,
        window_fraction=pacing.window_fraction,
        settle_tokens=settle_tokens,
        min_dwell_tokens=min_dwell_tokens,
        max_dwell_tokens=pacing.max_dwell_tokens,
        min_tokens_per_parameter=pacing.min_tokens_per_parameter,
        last_calls=() if pacing.max_dwell_tokens else last_calls(n_by_slope, decay_begins, rest_share / decay_begins),
        decay_begins=decay_begins,
        signal=pacing.signal,
        axis=pacing.axis,
        guard=GuardPolicy(guard.loss_ratio, guard.grad_norm_ratio, guard.second_moment_ratio, guard.action),
    )


NO_TIME = (
    "changes by slope have less time than they take: some may never come; lengthen training.duration, or lower pacing.min_dwell_tokens, "
    "pacing.settle_tokens or growth.rewarm_steps"
)


def has_time_for_all(config: Config) -> bool:
    """Whether all changes by slope can come before the rate decays, and stages last as they must; True where the duration does not tell."""
    policy = policy_of(config)
    return len(policy.last_calls) * _rest_share(config, policy.settle_tokens, policy.min_dwell_tokens) <= policy.decay_begins


def _rest_share(config: Config, settle_tokens: float, min_dwell_tokens: float) -> float:
    """The share of the duration that a stage must have, where the duration tells.

    To come to rest from a growth (warmup anew, steady checks), or as long as it has to last; and the lag.
    """
    duration, every, batch_tokens = parse_duration(config.training.duration), config.pacing.check_every_steps, config.training.batch_tokens
    n_steps = {"steps": duration.amount, "tokens": duration.amount / batch_tokens}.get(duration.unit)
    rest_steps = max(config.growth.rewarm_steps, settle_tokens / batch_tokens) + (MIN_POINTS + 3) * every
    dwell_steps = min_dwell_tokens / batch_tokens + 3 * every
    return max(rest_steps, dwell_steps) / n_steps if n_steps else 0.0
