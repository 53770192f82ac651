"""Rules between keys: what no single key can know. All run before anything starts."""

import math

from raystage.config.duration import parse_duration
from raystage.config.errors import ConfigError
from raystage.config.schema import MIN_DWELL_STEPS, Config, Model, Source

_MAX_DIVISORS_TRIED = 4096


def check(config: Config) -> None:
    """Raises ConfigError for the first impossible combination."""
    _check_sources(config)
    _check_tokenizer(config)
    _check_model(config)
    _check_path("lengths", config.pacing.lengths, config.model.context_length, "model.context_length")
    _check_path("depths", config.pacing.depths, config.model.n_layer, "model.n_layer")
    _check_path("widths", config.pacing.widths, config.model.d_model, "model.d_model")
    _check_widths(config)
    _check_order(config)
    _check_training(config)
    _check_slope(config)
    _check_growth(config)
    _check_init(config)


def change_counts(config: Config) -> dict[str, int]:
    """How many values the pacing lists change to, by list."""
    pacing = config.pacing
    lists = {"length": pacing.lengths, "depth": pacing.depths, "width": pacing.widths}
    return {kind: len(values) - 1 if values else 0 for kind, values in lists.items()}


def d_ff_of(model: Model) -> int:
    """The target's feed-forward units: GPT-2's 4 d_model, Llama's 8/3 d_model rounded up to a multiple of 64."""
    if model.d_ff is not None:
        return model.d_ff
    return 4 * model.d_model if model.family == "gpt2" else -(-8 * model.d_model // (3 * 64)) * 64


def _check_sources(config: Config) -> None:
    for group in ("sources", "validation_sources"):
        for i, source in enumerate(getattr(config.data, group)):
            _check_source(f"data.{group}.{i}", source)


def _check_source(key: str, source: Source) -> None:
    if source.kind == "stdlib" and (source.path or source.name):
        raise ConfigError(f"{key}.kind=stdlib: takes no path and no name; set kind to text, jsonl or dataset")
    if source.kind in ("text", "jsonl") and not source.path:
        raise ConfigError(f"{key}.path={_show(source.path)}: kind {source.kind} needs a file or glob")
    if source.kind in ("text", "jsonl") and source.name:
        raise ConfigError(f"{key}.name={source.name!r}: only kind dataset has one; kind {source.kind} reads path")
    if source.kind == "dataset" and bool(source.path) == bool(source.name):
        raise ConfigError(f"{key}: kind dataset needs either name (hub) or path (local folder)")


def _check_tokenizer(config: Config) -> None:
    tokenizer = config.data.tokenizer
    needed = {"file": "path", "hub": "name"}.get(tokenizer.kind)
    if needed and not getattr(tokenizer, needed):
        raise ConfigError(f"data.tokenizer.{needed}={_show(getattr(tokenizer, needed))}: kind {tokenizer.kind} needs it")
    if tokenizer.kind == "train" and (tokenizer.path or tokenizer.name):
        raise ConfigError("data.tokenizer.kind=train: takes no path and no name; set kind to file or hub")
    vocab_size = config.model.vocab_size
    if tokenizer.kind == "train" and vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"model.vocab_size={vocab_size}: below data.tokenizer.vocab_size={tokenizer.vocab_size}; raise it or leave it null"
        )


def _check_model(config: Config) -> None:
    model = config.model
    if model.family == "gpt2":
        for key in ("n_kv_head", "head_dim"):
            if getattr(model, key) is not None:
                raise ConfigError(
                    f"model.{key}={getattr(model, key)}: gpt2 has none of its own; leave it null, or use family llama or qwen3"
                )
    if model.head_dim is None and model.d_model % model.n_head:
        raise ConfigError(
            f"model.n_head={model.n_head}: must divide model.d_model={model.d_model}; {_nearest_divisor(model.d_model, model.n_head)} does"
        )
    head_dim = model.head_dim or model.d_model // model.n_head
    if model.family != "gpt2" and head_dim % 2:
        raise ConfigError(f"model.head_dim={head_dim}: rotary positions need an even number of channels a head")
    if model.family == "llama" and model.d_model % model.n_head:
        raise ConfigError(f"model.d_model={model.d_model}: must be a multiple of model.n_head={model.n_head} in llama; qwen3 takes any")
    if model.n_kv_head is not None and model.n_head % model.n_kv_head:
        raise ConfigError(
            f"model.n_kv_head={model.n_kv_head}: must divide model.n_head={model.n_head}; "
            f"{_nearest_divisor(model.n_head, model.n_kv_head)} does"
        )


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [n for n in range(1, min(number, _MAX_DIVISORS_TRIED) + 1) if number % n == 0]
    return min(divisors, key=lambda n: abs(n - wanted))


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


def _check_order(config: Config) -> None:
    counts = change_counts(config)
    order, both = config.pacing.order, (config.pacing.order or ()).count("both")
    if order is not None and any(order.count(kind) + (kind != "length") * both != n for kind, n in counts.items()):
        wanted = ", ".join(f"{n} x {kind}" for kind, n in counts.items())
        raise ConfigError(f"pacing.order={list(order)}: the lists ask for {wanted} (both counts as one depth and one width)")
    at, n_changes = config.pacing.at, sum(counts.values()) - both
    if config.pacing.rule != "table":
        if at is not None:
            raise ConfigError(f"pacing.at={list(at)}: only pacing.rule=table uses it")
        return
    if at is None or len(at) != n_changes or list(at) != sorted(set(at)):
        raise ConfigError(f"pacing.at={_show(at)}: rule table needs {n_changes} rising shares, one a change")


def _check_training(config: Config) -> None:
    training, context = config.training, config.model.context_length
    try:
        parse_duration(training.duration)
    except ValueError as error:
        raise ConfigError(f"training.duration={training.duration!r}: must be {error}") from None
    if training.batch_tokens % context:
        near = max(1, round(training.batch_tokens / context)) * context
        raise ConfigError(
            f"training.batch_tokens={training.batch_tokens}: must be a multiple of model.context_length={context}, like {near}"
        )
    if training.micro_batch_tokens < context:
        raise ConfigError(f"training.micro_batch_tokens={training.micro_batch_tokens}: below one row, model.context_length={context}")


def _check_slope(config: Config) -> None:
    pacing, kind = config.pacing, config.training.schedule.kind
    if pacing.rule != "slope" or not any(change_counts(config).values()):
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


def _check_growth(config: Config) -> None:
    growth, counts = config.growth, change_counts(config)
    depths = config.pacing.depths or ()
    if growth.new_layers == "copy" and depths and depths[0] == 0:
        raise ConfigError("growth.new_layers=copy: the first of pacing.depths has no layer to copy; use fresh or identity")
    if growth.peak_lrs is None:
        return
    n_sizes = 1 + counts["depth"] + counts["width"] - (config.pacing.order or ()).count("both")
    if len(growth.peak_lrs) != n_sizes or growth.peak_lrs[-1] != config.training.optimizer.lr:
        raise ConfigError(
            f"growth.peak_lrs={list(growth.peak_lrs)}: needs {n_sizes} rates, one a model size, "
            f"the last training.optimizer.lr={config.training.optimizer.lr}"
        )


def _check_init(config: Config) -> None:
    if config.init_from.what == "state" and config.init_from.path is None:
        raise ConfigError("init_from.what=state: needs init_from.path")


def _show(value: object) -> str:
    return "null" if value is None else repr(list(value) if isinstance(value, tuple) else value)
