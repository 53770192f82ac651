"""The stages that a configuration leads to, as a table: what each is, costs, and ends with."""

from rich.box import SIMPLE
from rich.table import Table

from raystage.config import Config, ConfigError
from raystage.config.duration import parse_duration
from raystage.config.sizes import planned_vocab_size
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.models.count import flops_per_token, matmul_parameters
from raystage.runtime.plan_memory import checkpointed_blocks, peaks_of, planned_choices
from raystage.runtime.plan_stages import PlannedStage, planned_stages
from raystage.runtime.worker import threads_of
from raystage.tracking import units
from raystage.training.errors import RehearsalError
from raystage.training.policy import NO_TIME, has_time_for_all, plan_of
from raystage.training.preflight import largest_micro_batch
from raystage.training.rehearsal import rehearse, seconds_per_token
from raystage.training.stage_model import spec_of

# header and the width below which its cells are not to be cut
_COLUMNS = [
    ("stage", 2),
    ("length", 6),
    ("layers x channels", 9),
    ("N", 5),
    ("memory", 7),
    ("tokens", 6),
    ("FLOPs", 7),
    ("time", 6),
    ("ends", 9),
]


def plan_table(config: Config, measure: bool = False) -> Table:
    """One line a stage. `measure`: runs every stage for one micro-batch on this machine, for the time that it takes."""
    config, chosen = planned_choices(config)
    speeds = _measured(config) if measure else None
    stages = planned_stages(config, speeds)
    caption = _caption(config, stages, chosen, speeds is not None)
    table = Table(box=SIMPLE, caption=caption, padding=(0, 1, 0, 0), pad_edge=False)
    for header, min_width in _COLUMNS:
        if header != "time" or speeds:
            table.add_column(header, min_width=min_width)
    tokens, flops, seconds = (sum(values) for values in zip(*((s.tokens, s.flops, s.seconds or 0.0) for s in stages), strict=True))
    for number, (stage, peak_bytes) in enumerate(zip(stages, peaks_of(config, stages), strict=True), 1):
        guess = "" if stage.by_clock else "~"
        cells = [
            str(number),
            str(stage.shape.seq_len_tokens),
            f"{stage.shape.n_layer} x {stage.shape.d_model}",
            units.count(matmul_parameters(stage.spec)),
            "" if peak_bytes is None else units.memory(peak_bytes),
            f"{guess}{units.count(stage.tokens)} ({stage.tokens / tokens:.0%})" if stage.tokens else f"{guess}not reached",
            f"{units.flops(stage.flops)} ({stage.flops / flops:.0%})" if stage.tokens else "",
        ]
        if speeds:
            cells.append("" if not stage.seconds else f"{units.duration(stage.seconds)} ({stage.seconds / seconds:.0%})")
        table.add_row(*cells, _end(config, stage))
    return table


def _end(config: Config, stage: PlannedStage) -> str:
    change, thresholds = stage.ended_by, config.pacing.thresholds
    if change is None:
        return f"run, {config.training.duration}"
    if change.at is not None:
        return f"at {change.at:.1%}: {change}"
    return f"slope > {max(getattr(thresholds, kind) for kind in change.threshold_kinds)}: {change}"


def _caption(config: Config, stages: list[PlannedStage], chosen: str, is_measured: bool) -> str:
    last = stages[-1]
    static = sum(stage.tokens for stage in stages) * flops_per_token(last.spec, last.shape.seq_len_tokens)
    lines = [f"in all {sum(stage.flops for stage in stages) / static:.0%} of the FLOPs of the target on as many tokens"]
    if not all(stage.by_clock for stage in stages):
        lines.append("~ a guess by Chinchilla's law (2404.10102); the slope decides when it runs")
    if latest := [f"{stage.latest:.0%}" for stage in stages if stage.latest is not None]:
        lines.append(f"changes by slope come at the latest at {', '.join(latest)} of the duration")
    if not has_time_for_all(config):
        lines.append(NO_TIME)
    lines.append("; ".join(words for words in (_memory_words(config), chosen) if words))
    if blocks := checkpointed_blocks(config, stages):
        lines.append(f"blocks checkpointed, stage by stage: {', '.join(map(str, blocks))}")
    if config.model.vocab_size is None and config.data.tokenizer.kind != "train":
        lines.append(
            f"{planned_vocab_size(config):,} entries are assumed, the tokenizer is not looked into; model.vocab_size says how many"
        )
    if config.training.strategy == "fsdp":
        lines.append("fsdp: memory is that of one worker with its share of the model; --measure is of one that holds all of it")
    if not is_measured:
        lines.append("--measure adds times, from one micro-batch of each stage on this machine")
        if parse_duration(config.training.duration).unit == "hours":
            lines.append("of a duration in hours the tokens are not known without it: they stand for a million a second")
    return "\n".join(lines)


def _memory_words(config: Config) -> str:
    if config.training.micro_batch_tokens is None:
        return ""
    if config.runtime.device == "xla":
        return "memory is not predicted for xla devices"
    compiled = "; compiled code takes less" if config.training.compile else ""
    kernels = "" if config.runtime.device == "cpu" else ", counted with the kernels of a CPU"
    return f"memory: the most of a worker in a step{kernels}, with micro-batches of {config.training.micro_batch:,} tokens{compiled}"


def _measured(config: Config) -> list[float]:
    try:
        device, shapes = pick_device(config.runtime.device), plan_of(config).shapes()
    except ValueError as error:
        raise ConfigError(f"{error}, or plan without --measure") from None
    device.prepare(threads_of(config.runtime), config.runtime.deterministic)
    pairs = [(spec_of(config, shape, planned_vocab_size(config), eot_id=0), shape.seq_len_tokens) for shape in shapes]
    try:
        rehearsal = rehearse(config, pairs, device, Ranks(), largest_micro_batch(config, 1))
    except RehearsalError as error:
        raise ConfigError(f"--measure: {error}") from None
    return list(seconds_per_token(rehearsal, config.training.batch_tokens, world_size=1))
