"""Rules between the keys of pacing, and between them and the target."""

import math

from raystage.config.errors import ConfigError
from raystage.config.pacing import LENGTH_RULES, MIN_DWELL_STEPS
from raystage.config.schema import Config
from raystage.config.sizes import d_ff_of


def check_pacing(config: Config) -> None:
    """Raises ConfigError for the first impossible combination."""
    pacing, model = config.pacing, config.model
    _check_path("lengths", pacing.lengths, model.context_length, "model.context_length")
    _check_path("depths", pacing.depths, model.n_layer, "model.n_layer")
    _check_path("widths", pacing.widths, model.d_model, "model.d_model")
    _check_path("batches", pacing.batches, config.training.batch_tokens, "training.batch_tokens")
    _check_widths(config)
    _check_batches(config)
    _check_rule(config)
    _check_order(config)
    _check_at(config)
    _check_slope(config)


def change_counts(config: Config) -> dict[str, int]:
    """How many values the pacing lists change to, by kind."""
    pacing = config.pacing
    lists = {"length": pacing.lengths, "depth": pacing.depths, "width": pacing.widths, "batch": pacing.batches}
    return {kind: len(values) - 1 if values else 0 for kind, values in lists.items()}


def show(value: object) -> str:
    """A value as YAML would have it, roughly."""
    return "null" if value is None else repr(list(value) if isinstance(value, tuple) else value)


def _check_path(name: str, values: tuple[int, ...] | None, target: int, target_key: str) -> None:
    if values is None:
        return
    key = f"pacing.{name}={list(values)}"
    if not values or list(values) != sorted(set(values)):
        raise ConfigError(f"{key}: must be given in rising order, each once")
    if values[-1] > target:
        raise ConfigError(f"{key}: {values[-1]} is above {target_key}={target}")
    if values[-1] != target:
        raise ConfigError(f"{key}: must end at {target_key}={target}")


def _check_widths(config: Config) -> None:
    """Heads and feed-forward units follow the width, and there are no halves of them."""
    model, widths = config.model, config.pacing.widths or ()
    whole = {"model.n_head": model.n_head, "model.n_kv_head": model.n_kv_head or model.n_head, "model.d_ff": d_ff_of(model)}
    step = model.d_model // math.gcd(model.d_model, *whole.values())
    for width in widths:
        odd = [f"{key}={number}" for key, number in whole.items() if number * width % model.d_model]
        if odd:
            raise ConfigError(f"pacing.widths={list(widths)}: {width} has no whole share of {odd[0]}; multiples of {step} do")


def _check_batches(config: Config) -> None:
    context = config.model.context_length
    odd = [batch for batch in config.pacing.batches or () if batch % context]
    if odd:
        raise ConfigError(f"pacing.batches={list(config.pacing.batches or ())}: {odd[0]} is no multiple of model.context_length={context}")


def _check_rule(config: Config) -> None:
    pacing, counts = config.pacing, change_counts(config)
    if pacing.rule == "constant" and any(counts.values()):
        listed = next(kind for kind, n in counts.items() if n)
        raise ConfigError(f"pacing.rule=constant: nothing changes, so pacing.{listed}s must be null; or choose another rule")
    if pacing.rule in LENGTH_RULES[1:] and not counts["length"]:
        raise ConfigError(f"pacing.lengths={show(pacing.lengths)}: pacing.rule={pacing.rule} needs at least two lengths")
    if pacing.rule == "two_stage" and counts["length"] != 1:
        raise ConfigError(f"pacing.lengths={show(pacing.lengths)}: pacing.rule=two_stage needs two lengths, a short and the full one")
    if pacing.warmup.step_tokens is not None and pacing.rule not in ("linear", "root"):
        raise ConfigError(f"pacing.warmup.step_tokens={pacing.warmup.step_tokens}: only pacing.rule=linear and root use it")


def _check_order(config: Config) -> None:
    """Each value of the lists that the order speaks of, exactly once."""
    order, counts = config.pacing.order, change_counts(config)
    if order is None:
        return
    if config.pacing.rule == "table" and order == "free":
        raise ConfigError("pacing.order=free: pacing.rule=table needs the order that its shares are in")
    if order == "free":
        return
    if config.pacing.rule in LENGTH_RULES:
        counts["length"] = 0  # the rule has them
    kinds = [part for entry in order for part in entry.replace("both", "depth+width").split("+")]
    if any(len(set(parts)) < len(parts) for parts in (entry.split("+") for entry in order)):
        raise ConfigError(f"pacing.order={list(order)}: one entry names a kind twice")
    if any(kinds.count(kind) != n for kind, n in counts.items()):
        wanted = ", ".join(f"{n} x {kind}" for kind, n in counts.items() if n or kind in kinds)
        raise ConfigError(f"pacing.order={list(order)}: the lists ask for {wanted} (both counts as one depth and one width)")


def _check_at(config: Config) -> None:
    pacing, counts = config.pacing, change_counts(config)
    if pacing.rule not in ("table", "discrete"):
        if pacing.at is not None:
            raise ConfigError(f"pacing.at={list(pacing.at)}: only pacing.rule=table and discrete use it")
        return
    n_changes = counts["length"] if pacing.rule == "discrete" else sum(counts.values())
    if pacing.rule == "table" and pacing.order is not None:
        n_changes = len(pacing.order)
    at = pacing.at
    if at is None or len(at) != n_changes or list(at) != sorted(set(at)):
        raise ConfigError(f"pacing.at={show(at)}: rule {pacing.rule} needs {n_changes} rising shares, one a change")


def _decides_by_slope(config: Config) -> bool:
    counts, rule = change_counts(config), config.pacing.rule
    if config.pacing.thresholds.stop is not None:
        return True
    waiting = [kind for kind, n in counts.items() if n and (kind != "length" or rule not in LENGTH_RULES)]
    return rule not in ("table", "constant") and bool(waiting)


def _check_slope(config: Config) -> None:
    pacing, kind = config.pacing, config.training.schedule.kind
    if not _decides_by_slope(config):
        return
    if kind in ("cosine", "linear"):
        raise ConfigError(f"training.schedule.kind={kind}: its rate always moves, which fakes slopes; slope pacing needs wsd or constant")
    if kind == "wsd" and config.training.schedule.decay_fraction == 1:
        raise ConfigError("training.schedule.decay_fraction=1.0: leaves no span of steady rate; slope pacing needs one, so must be below 1")
    low, high = pacing.min_dwell_tokens, pacing.max_dwell_tokens
    if low is None:
        low = MIN_DWELL_STEPS * config.training.batch_tokens
    if high is not None and high <= low:
        raise ConfigError(
            f"pacing.max_dwell_tokens={high}: must be above pacing.min_dwell_tokens={low} (null: {MIN_DWELL_STEPS} steps' worth)"
        )
