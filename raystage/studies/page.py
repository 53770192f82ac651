"""A study in words: protocol, table, answer and picture as Markdown; every number from run folders."""

from collections.abc import Callable, Sequence

from raystage.config.study import Study
from raystage.studies.answer import answer
from raystage.studies.results import ArmResult, Spread

_COLUMN_WORDS = {
    "worst_loss_ratio": "worst loss ratio",
    "n_unstable": "steps with a loss ratio above 1.2",
    "largest_grad_norm": "largest gradient norm",
    "largest_second_moment": "largest second moment",
}


def page_of(study: Study, results: Sequence[ArmResult], conditions: str, command: str) -> str:
    """The page. `conditions`: what the runs were trained on."""
    parts = [
        f"# {study.name}",
        study.keys.question,
        answer(study, results),
        f"![Validation losses, and where every arm ends]({study.name}.png)",
        _table(study, results),
        "## Protocol",
        "\n".join(f"- {line}" for line in _protocol(study, conditions)),
        f"Made by `{command}`; the runs are ordinary run folders below `{study.base.storage}/{study.name}/runs`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(study: Study, results: Sequence[ArmResult]) -> str:
    levels = study.keys.levels if study.keys.reference == "curve" else (1.0,)
    saved = ["saved at equal loss" if len(levels) == 1 else f"saved at the loss of {level:.0%}" for level in levels]
    extra = [_COLUMN_WORDS[key] for key in study.keys.columns]
    zeroshot = list(dict.fromkeys(figure for result in results for figure in result.zeroshot))
    heads = ["arm", "rate", "seeds", "tokens", "FLOPs of the baseline's", "time", "validation loss", "less the baseline's"]
    heads += [*saved, *extra, *zeroshot]
    lines = [heads, ["---"] * len(heads), *(_row(study, result, len(levels), zeroshot) for result in results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(study: Study, result: ArmResult, n_saved: int, zeroshot: Sequence[str]) -> list[str]:
    said = f"**{result.name}**" + (f": {result.says}" if result.says else "")
    rate = "-" if result.factor is None else f"{study.base.training.optimizer.lr * result.factor:.3g}{'*' * result.at_edge}"
    n_ended = len(result.loss.values) if result.loss else 0
    seeds = f"{n_ended}" + (f", {result.n_failed} failed" if result.n_failed else "")
    known = [
        _with(result.tokens, lambda spread: f"{spread.mean / 1e6:.3g}M"),
        _with(result.share, lambda spread: f"{spread.mean:.1%}"),
        _with(result.seconds, lambda spread: f"{spread.mean / 60:.1f} min"),
        _with(result.loss, lambda spread: _plus_minus(spread, ".4f")),
        _with(result.difference, lambda spread: _plus_minus(spread, "+.4f")),
        *(_with(spread, lambda spread: _plus_minus(spread, ".1%")) for spread in (*result.saved, *[None] * n_saved)[:n_saved]),
        *(_with(result.extra.get(key), lambda spread: _plus_minus(spread, ".3g")) for key in study.keys.columns),
        *(_with(result.zeroshot.get(figure), lambda spread: _plus_minus(spread, ".4g")) for figure in zeroshot),
    ]
    return [said, rate, seeds, *known]


def _with(spread: Spread | None, words: Callable[[Spread], str]) -> str:
    return "-" if spread is None else words(spread)


def _plus_minus(spread: Spread, form: str) -> str:
    deviation = "" if spread.deviation is None else f" ± {spread.deviation:{form.replace('+', '')}}"
    return f"{spread.mean:{form}}{deviation}"


def _protocol(study: Study, conditions: str) -> list[str]:
    base, keys = study.base, study.keys
    model, training = base.model, base.training
    factors = ", ".join(f"{training.optimizer.lr * factor:.3g}" for factor in sorted(keys.learning_rates))
    reference = {
        True: "its own validations (the rate does not decay), means of five neighbours",
        False: f"the ends of {', '.join(keys.reference)}, straight lines between on log-log axes",
    }[keys.reference == "curve"]
    return [
        f"Target: {model.family}, {model.n_layer} layers x {model.d_model} channels, {model.context_length} tokens of context; "
        f"{training.batch_tokens:,} tokens a step; base duration {training.duration}; schedule {training.schedule.kind}, "
        f"{training.schedule.warmup_steps} steps of warmup; {training.precision}.",
        f"Text: {', '.join(source.path or source.name or source.kind for source in base.data.sources)}; validation on the same "
        f"{base.validation.rows} held-out rows of the full context in every run.",
        f"Rates: every arm is tried whole with seed {keys.seeds[0]} at {factors}, and runs at its best one with the seeds "
        f"{', '.join(map(str, keys.seeds))}; a star marks a best rate at the edge of those tried. Arms that name another's rate take it.",
        "FLOPs are those of all stages, attention at its length included; trying rates is charged to no arm.",
        f"Equal loss: what the baseline needs for an arm's loss is read from {reference}. ± is the standard deviation over seeds; "
        "differences are of the same seed, which has the same order of the data in every arm.",
        conditions,
    ]
