"""Rules between keys: what no single key can know. All run before anything starts."""

from raystage.config.duration import parse_duration
from raystage.config.errors import ConfigError
from raystage.config.pacing_checks import change_counts, check_pacing, show
from raystage.config.ray_address import check_address
from raystage.config.schema import Config, Source, WorkerRange

_MAX_DIVISORS_TRIED = 4096


def check(config: Config) -> None:
    """Raises ConfigError for the first impossible combination."""
    _check_sources(config)
    _check_tokenizer(config)
    _check_model(config)
    _check_training(config)
    check_pacing(config)
    _check_device(config)
    _check_growth(config)
    _check_init(config)
    _check_workers(config)
    _check_evaluation(config)
    if config.runtime.address is not None:
        check_address(config.runtime.address, "runtime.address")


def _check_sources(config: Config) -> None:
    for group in ("sources", "validation_sources"):
        for i, source in enumerate(getattr(config.data, group)):
            _check_source(f"data.{group}.{i}", source)


def _check_source(key: str, source: Source) -> None:
    if source.kind == "stdlib" and (source.path or source.name):
        raise ConfigError(f"{key}.kind=stdlib: takes no path and no name; set kind to text, jsonl or dataset")
    if source.kind in ("text", "jsonl") and not source.path:
        raise ConfigError(f"{key}.path={show(source.path)}: kind {source.kind} needs a file or glob")
    if source.kind in ("text", "jsonl") and source.name:
        raise ConfigError(f"{key}.name={source.name!r}: only kind dataset has one; kind {source.kind} reads path")
    if source.kind == "dataset" and bool(source.path) == bool(source.name):
        raise ConfigError(f"{key}: kind dataset needs either name (hub) or path (local folder)")


def _check_tokenizer(config: Config) -> None:
    tokenizer = config.data.tokenizer
    needed = {"file": "path", "hub": "name"}.get(tokenizer.kind)
    if needed and not getattr(tokenizer, needed):
        raise ConfigError(f"data.tokenizer.{needed}={show(getattr(tokenizer, needed))}: kind {tokenizer.kind} needs it")
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


def _check_training(config: Config) -> None:
    training, context = config.training, config.model.context_length
    try:
        parse_duration(training.duration)
    except ValueError as error:
        raise ConfigError(f"training.duration={training.duration!r}: must be {error}") from None
    try:
        parse_duration(training.stop_at or training.duration)
    except ValueError as error:
        raise ConfigError(f"training.stop_at={training.stop_at!r}: must be {error}, or null") from None
    if training.batch_tokens % context:
        near = max(1, round(training.batch_tokens / context)) * context
        raise ConfigError(
            f"training.batch_tokens={training.batch_tokens}: must be a multiple of model.context_length={context}, like {near}"
        )
    if training.micro_batch_tokens is not None and training.micro_batch_tokens < context:
        raise ConfigError(f"training.micro_batch_tokens={training.micro_batch_tokens}: below one row, model.context_length={context}")
    if training.activation_checkpointing == "auto" and training.strategy == "fsdp":
        raise ConfigError(
            "training.activation_checkpointing=auto: is for ddp; use full (`raystage plan` tells what memory it takes), or ddp"
        )
    if not training.is_fitted and config.runtime.memory_gib is not None:
        raise ConfigError(
            f"runtime.memory_gib={config.runtime.memory_gib}: training leaves nothing to it; set training.micro_batch_tokens=null or "
            "training.activation_checkpointing=auto"
        )
    if training.bucket_mib is not None and (training.strategy == "fsdp" or config.runtime.device == "xla"):
        raise ConfigError(
            f"training.bucket_mib={training.bucket_mib}: is for ddp on CPUs and CUDA; leave it out (under fsdp a block's gradients travel "
            "together, on xla all of them)"
        )
    if training.strategy == "fsdp" and training.optimizer.kind == "adafactor":
        raise ConfigError(
            "training.strategy=fsdp: the row and column means of adafactor are not sharded; use adamw or sgd, or strategy ddp"
        )


def _check_device(config: Config) -> None:
    training = config.training
    if config.runtime.device != "xla":
        if config.runtime.tpu is not None:
            raise ConfigError(f"runtime.tpu: is for runtime.device=xla, and device is {config.runtime.device}; leave one of them out")
        return
    if training.strategy == "fsdp":
        raise ConfigError("training.strategy=fsdp: is torch's own, which runtime.device=xla does not know; use ddp")
    if training.micro_batch_tokens is None:
        raise ConfigError("training.micro_batch_tokens=null: memory is not predicted for runtime.device=xla; give a number")
    if (wanted := training.activation_checkpointing) != "none":
        raise ConfigError(f"training.activation_checkpointing={wanted}: not with runtime.device=xla, where a step is one program; use none")
    if training.reduce_precision == "bf16":
        raise ConfigError(
            "training.reduce_precision=bf16: with runtime.device=xla gradients are added up inside of the program, in float32; use float32"
        )
    if training.optimizer.kind == "adafactor":
        raise ConfigError(
            "training.optimizer.kind=adafactor: reads norms to the host in each step, so runtime.device=xla would wait; use adamw"
        )


def _check_growth(config: Config) -> None:
    growth, counts = config.growth, change_counts(config)
    depths = config.pacing.depths or ()
    if growth.new_layers == "copy" and depths and depths[0] == 0:
        raise ConfigError("growth.new_layers=copy: the first of pacing.depths has no layer to copy; use fresh or identity")
    if growth.peak_lrs is None:
        return
    if config.pacing.order == "free":
        raise ConfigError("growth.peak_lrs: the sizes have no order of their own under pacing.order=free; give an order")
    n_sizes = 1 + counts["depth"] + counts["width"] - _n_joint(config)
    if len(growth.peak_lrs) != n_sizes or growth.peak_lrs[-1] != config.training.optimizer.lr:
        raise ConfigError(
            f"growth.peak_lrs={list(growth.peak_lrs)}: needs {n_sizes} rates, one a model size, "
            f"the last training.optimizer.lr={config.training.optimizer.lr}"
        )


def _n_joint(config: Config) -> int:
    """Changes that take a depth and a width at once."""
    kinds = [entry.replace("both", "depth+width").split("+") for entry in config.pacing.order or ()]
    return sum({"depth", "width"} <= set(parts) for parts in kinds)


def _check_init(config: Config) -> None:
    if "://" in (config.init_from.path or ""):
        raise ConfigError(f"init_from.path={config.init_from.path}: takes a path; 'raystage export' brings the model of a run at a URI")
    if config.init_from.what == "state" and config.init_from.path is None:
        raise ConfigError("init_from.what=state: needs init_from.path")


def _check_workers(config: Config) -> None:
    if config.training.strategy == "fsdp" and "://" in config.storage:
        raise ConfigError(
            f"training.strategy=fsdp: every rank writes its shards, and storage={config.storage} takes those of rank 0's machine alone; "
            "give a path that all machines share"
        )
    runtime, n_stages = config.runtime, 1 + sum(change_counts(config).values())
    for number, workers in enumerate(runtime.stage_workers or (runtime.workers,)):
        key = "runtime.workers" if runtime.stage_workers is None else f"runtime.stage_workers.{number}"
        if isinstance(workers, WorkerRange) and workers.min > workers.max:
            raise ConfigError(f"{key}.min={workers.min}: above its max={workers.max}; swap them")
    if runtime.stage_workers is not None and runtime.engine == "local":
        raise ConfigError("runtime.stage_workers: with engine local torchrun decides how many workers there are; leave it null")
    if runtime.stage_workers is not None and not 1 <= len(runtime.stage_workers) <= n_stages:
        raise ConfigError(
            f"runtime.stage_workers: {len(runtime.stage_workers)} entries, but the plan has {n_stages} stages; give 1 to {n_stages}"
        )


def _check_evaluation(config: Config) -> None:
    wanted, context = config.evaluation, config.model.context_length
    if not wanted.beside_training:
        return
    if config.runtime.engine == "local":
        raise ConfigError("evaluation.beside_training=true: needs runtime.engine=ray; without, 'raystage evaluate' measures afterwards")
    if "://" in config.storage:
        raise ConfigError(f"evaluation.beside_training=true: needs a folder that all nodes share, and storage={config.storage} is a URI")
    if not (wanted.validation or wanted.texts or wanted.lambada):
        raise ConfigError("evaluation.beside_training=true: nothing to measure; set evaluation.validation, texts or lambada")
    if wanted.stride_tokens is not None and wanted.stride_tokens > context:
        raise ConfigError(
            f"evaluation.stride_tokens={wanted.stride_tokens}: above model.context_length={context}, it would pass over tokens"
        )
