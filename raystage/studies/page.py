"""A study in words: protocol, table, answer and picture as Markdown; every number from run folders."""

from collections.abc import Callable, Sequence

from raystage.config.study import Study
from raystage.studies.answer import answer
from raystage.studies.by_length import AtLength
from raystage.studies.results import ArmResult
from raystage.studies.spread import Spread

_COLUMN_WORDS = {
    "worst_loss_ratio": "worst loss ratio",
    "n_unstable": "steps with a loss ratio above 1.2",
    "largest_grad_norm": "largest gradient norm",
    "largest_second_moment": "largest second moment",
}


def page_of(study: Study, results: Sequence[ArmResult], lengths: Sequence[AtLength], n_missing: int, conditions: str, command: str) -> str:
    """The page. `n_missing`: runs that have not ended; `conditions`: what the others were trained on."""
    parts = [
        f"# {study.name}",
        study.keys.question,
        f"**Not complete: {n_missing} runs or more are missing.**" if n_missing else "",
        answer(study, results),
        f"![Validation losses, and where every arm ends]({study.name}.png)",
        _table(study, results),
        _by_length(study, lengths),
        _trials(study, results),
        "## Protocol",
        "\n".join(f"- {line}" for line in _protocol(study, conditions)),
        f"Made by `{command}`; the runs are ordinary run folders below `{study.base.storage}/{study.name}/runs`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(study: Study, results: Sequence[ArmResult]) -> str:
    levels: list[float | None] = [None] if study.ends else list(study.keys.levels) if study.keys.reference else []
    saved = ["saved at equal loss" if level is None else f"saved at the loss of {level:.0%}" for level in levels]
    zeroshot = list(dict.fromkeys(figure for result in results for figure in result.zeroshot))
    heads = [
        "arm",
        "rate",
        "runs",
        "tokens",
        "FLOPs",
        "time",
        "validation loss",
        "less the baseline's",
        "to the baseline's loss: FLOPs, time",
    ]
    heads += [*saved, *(_COLUMN_WORDS[key] for key in study.keys.columns), *zeroshot, "changes"]
    return _markdown(heads, [_row(study, result, levels, zeroshot) for result in results])


def _row(study: Study, result: ArmResult, levels: Sequence[float | None], zeroshot: Sequence[str]) -> list[str]:
    said = f"**{result.name}**" + (f": {result.says}" if result.says else "")
    rate = "-" if result.factor is None else f"{study.base.training.optimizer.lr * result.factor:.3g}{'*' * result.at_edge}"
    runs = f"{result.n_ended} of {result.n_wanted}" + (f", {result.n_diverged} diverged" if result.n_diverged else "")
    saved = {each.level: f"{each.bound} {_plus_minus(each.spread, '.1%')}".strip() for each in result.saved}
    return [
        said,
        rate,
        runs,
        _with(result.tokens, lambda spread: f"{spread.mean / 1e6:.3g}M"),
        _with(result.share, lambda spread: f"{spread.mean:.1%}"),
        _with(result.time_share, lambda spread: f"{spread.mean:.1%}"),
        _with(result.loss, lambda spread: _plus_minus(spread, ".4f")),
        _with(result.difference, lambda spread: _plus_minus(spread, "+.4f")),
        ", ".join(_plus_minus(spread, ".0%") for spread in (result.reached, result.reached_time) if spread) or "-",
        *(saved.get(level, "-") for level in levels),
        *(_with(result.extra.get(key), lambda spread: _plus_minus(spread, ".3g")) for key in study.keys.columns),
        *(_with(result.zeroshot.get(figure), lambda spread: _plus_minus(spread, ".4g")) for figure in zeroshot),
        result.changes or "-",
    ]


def _by_length(study: Study, lengths: Sequence[AtLength]) -> str:
    """In brackets what the baseline has over the same tokens."""
    if not lengths:
        return ""
    heads = [
        "arm",
        "length",
        "variance of the gradient norm",
        f"({study.keys.baseline})",
        "largest second moment",
        f"({study.keys.baseline})",
    ]
    rows = [
        [row.arm, str(row.seq_len_tokens)]
        + [
            _plus_minus(spread, ".3g")
            for spread in (row.grad_norm_variance, row.base_grad_norm_variance, row.second_moment, row.base_second_moment)
        ]
        for row in lengths
    ]
    return f"Gradients by sequence length, in brackets those of the baseline over the same tokens:\n\n{_markdown(heads, rows)}"


def _trials(study: Study, results: Sequence[ArmResult]) -> str:
    """Final validation losses of the rates that were tried; nothing where there is but one."""
    keys = study.keys
    tried = [result for result in results if result.trials]
    if len(keys.learning_rates) == 1 or not tried:
        return ""
    heads = [f"rate, seed {keys.seeds[0]}", *(f"{study.base.training.optimizer.lr * factor:.3g}" for factor in sorted(keys.learning_rates))]
    return _markdown(heads, [[result.name, *_tried(study, result)] for result in tried])


def _tried(study: Study, result: ArmResult) -> list[str]:
    losses = [(factor in result.trials, result.trials.get(factor)) for factor in sorted(study.keys.learning_rates)]
    return ["-" if not known else "diverged" if loss is None else f"{loss:.4f}" for known, loss in losses]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rows))


def _with(spread: Spread | None, words: Callable[[Spread], str]) -> str:
    return "-" if spread is None else words(spread)


def _plus_minus(spread: Spread, form: str) -> str:
    deviation = "" if spread.deviation is None else f" ± {spread.deviation:{form.replace('+', '')}}"
    return f"{spread.mean:{form}}{deviation}"


def _protocol(study: Study, conditions: str) -> list[str]:
    base, keys = study.base, study.keys
    model, training = base.model, base.training
    rates = ", ".join(f"{training.optimizer.lr * factor:.3g}" for factor in sorted(keys.learning_rates))
    taken = [f"{arm.name} takes that of {arm.keys.rate_of}" for arm in study.arms if arm.keys.rate_of]
    return [
        f"Target: {model.family}, {model.n_layer} layers x {model.d_model} channels, {model.context_length} tokens of context; "
        f"{training.batch_tokens:,} tokens a step; base duration {training.duration}; schedule {training.schedule.kind}, "
        f"{training.schedule.warmup_steps} steps of warmup; {training.precision}.",
        f"Text: {', '.join(source.path or source.name or source.kind for source in base.data.sources)}; validation on the same "
        f"{base.validation.rows} held-out rows of the full context in every run.",
        f"Rates: every arm is tried whole with seed {keys.seeds[0]} at {rates}, and runs at its best one with the seeds "
        f"{', '.join(map(str, keys.seeds))}; a star marks a best rate at the edge of those tried"
        + (f"; {', '.join(taken)}." if taken else "."),
        "FLOPs are those of all stages, attention at its length included; trying rates is charged to no arm.",
        _equal_loss(study),
        "± is the standard deviation over seeds in the table, half of the 95% interval of the mean (Student's t) in sentences. "
        "Differences and savings are against the baseline of the same seed, which has the same order of the data in every arm.",
        "FLOPs and times are shares of the baseline's of the same seed. A time counts every step as the least that a run of this study "
        "took for its shape (the median of a stage), without validations, checkpoints and pauses; runs went side by side.",
        "A run has come to the baseline's loss at its first validation at or below the one that the baseline ends with.",
        conditions,
    ]


def _equal_loss(study: Study) -> str:
    if study.ends:
        return (
            f"Equal loss: what the baseline takes for an arm's loss is read between the ends of {', '.join(study.ends)}, each "
            "with a decay of its own, on straight lines of log loss over log FLOPs; beyond them the nearest end gives a bound."
        )
    if study.keys.reference:
        return (
            "Equal loss: the rate is constant, so that every point of a curve is where a run might have ended; curves are read on "
            "lines of log loss over log FLOPs through the validations within a quarter of the place."
        )
    return "What equal loss would have cost is not asked."
