"""The tables of a study's page, in Markdown."""

from collections.abc import Callable, Sequence

from raystage.config.study import Study
from raystage.studies.by_length import AtLength
from raystage.studies.growing import Growing
from raystage.studies.results import ArmResult, Saved
from raystage.studies.spread import Spread
from raystage.studies.words import COLUMN_WORDS, plus_minus

_GROWTH_WORDS = (
    "Growth: a grown model's slope over the baseline's at the same loss, after the re-warmup (1: it learns as fast as one from scratch; "
    "the baseline's own line is of its seeds over each other, which differ by noise alone); where `raystage replay --fit` would have "
    "grown, by the curves of the small model and of the baseline: the small one's d log(loss) / d log(compute) there, and the place among "
    "the tokens that it has seen, which end where its arm grew, so that only earlier points are found; and rho, the share of the tokens "
    "seen that counts afterwards: by where the grown curve lies on the baseline's, by that fit, and by default. Rho is that of one growth."
)
_RHOS = ("rho, measured", "rho, fitted", "rho, default")


def results_table(study: Study, results: Sequence[ArmResult]) -> str:
    """An arm a line."""
    there = {each.level for result in results for each in _shown(result)}
    levels = [level for level in (None, *study.keys.levels) if level in there]
    saved = ["saved at equal loss" if level is None else f"saved at the loss of {level:.0%}" for level in levels]
    heads = ["arm", "learning rate", "runs", "tokens", "FLOPs", "time", "validation loss"]
    heads += ["minus the baseline's", "to the baseline's loss: FLOPs, time"]
    heads += [*saved, *(COLUMN_WORDS[key] for key in study.keys.columns), "changes"]
    return _markdown(*_filled(heads, [_row(study, result, levels) for result in results]))


def _filled(heads: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns that have nothing in any row."""
    kept = [column for column in range(len(heads)) if any(row[column] != "-" for row in rows)]
    return [heads[column] for column in kept], [[row[column] for column in kept] for row in rows]


def _shown(result: ArmResult) -> tuple[Saved, ...]:
    """What the reference is read from saves nothing by its own account."""
    return () if result.is_variant else result.saved


def _saving(saved: Saved) -> str:
    return f"{saved.bound} {saved.spread.mean:.1%}" if saved.bound else plus_minus(saved.spread, ".1%")


def _row(study: Study, result: ArmResult, levels: Sequence[float | None]) -> list[str]:
    said = f"**{result.name}**" + (f": {result.says}" if result.says else "")
    rate = "-" if result.factor is None else f"{study.base.training.optimizer.lr * result.factor:.3g}{'*' * result.at_edge}"
    runs = f"{result.n_ended} of {result.n_wanted}" + (f", {result.n_diverged} diverged" if result.n_diverged else "")
    saved = {each.level: _saving(each) for each in _shown(result)}
    return [
        said,
        rate,
        runs,
        _with(result.tokens, lambda spread: f"{spread.mean / 1e6:.3g}M"),
        _with(result.share, lambda spread: f"{spread.mean:.1%}"),
        _with(result.time_share, lambda spread: f"{spread.mean:.1%}"),
        _with(result.loss, lambda spread: plus_minus(spread, ".4f")),
        _with(result.difference, lambda spread: plus_minus(spread, "+.4f")),
        _reached(result),
        *(saved.get(level, "-") for level in levels),
        *(_with(result.extra.get(key), lambda spread: plus_minus(spread, ".4g")) for key in study.keys.columns),
        result.changes or "-",
    ]


def _reached(result: ArmResult) -> str:
    spreads = () if result.is_variant else (result.reached, result.reached_time)
    return ", ".join(plus_minus(spread, ".0%") for spread in spreads if spread) or "-"


def zeroshot_table(results: Sequence[ArmResult]) -> str:
    """What the final models are worth on texts that they were not trained for; nothing where that was not measured."""
    figures = list(dict.fromkeys(figure for result in results for figure in result.zeroshot))
    if not figures:
        return ""
    rows = [
        [result.name, *(_with(result.zeroshot.get(figure), lambda spread: plus_minus(spread, ".4g")) for figure in figures)]
        for result in results
        if result.zeroshot
    ]
    return f"Zero-shot, final models:\n\n{_markdown(['arm', *figures], rows)}"


def lengths_table(study: Study, rows: Sequence[AtLength]) -> str:
    """In brackets what the baseline has over the same tokens."""
    if not rows:
        return ""
    base = f"({study.keys.baseline})"
    heads = ["arm", "length", "seeds", "variance of the gradient norm", base, "largest recorded second moment", base]
    table = _markdown(heads, [_length(row) for row in rows])
    return f"Gradients by sequence length, in brackets those of the baseline over the same tokens:\n\n{table}"


def _length(row: AtLength) -> list[str]:
    spreads = (row.grad_norm_variance, row.base_grad_norm_variance, row.second_moment, row.base_second_moment)
    words = (_with(spread, lambda each: plus_minus(each, ".3g")) for spread in spreads)
    return [row.arm, str(row.seq_len_tokens), str(row.n_seeds), *words]


def growth_table(rows: Sequence[Growing]) -> str:
    """With a line for each reason why no growth point was found."""
    if not rows:
        return ""
    heads = ["arm", "slope after growth over the baseline's", "slope at the growth point", "growth point", *_RHOS]
    table = _markdown(heads, [_growing(row) for row in rows])
    troubles = dict.fromkeys(f"- {row.arm}: {trouble}." for row in rows for trouble in row.troubles)
    return "\n\n".join([_GROWTH_WORDS, table, *(["What was not found, and why:\n\n" + "\n".join(troubles)] if troubles else [])])


def _growing(row: Growing) -> list[str]:
    spreads = ((row.ratio, ".2f"), (row.threshold, ".3f"), (row.share, ".0%"), (row.measured, ".2f"), (row.rho, ".2f"))
    return [
        row.arm,
        *(_of_seeds(spread, form, row.n_seeds) for spread, form in spreads),
        "-" if row.default is None else f"{row.default:.2f}",
    ]


def _of_seeds(spread: Spread | None, form: str, n_seeds: int) -> str:
    if spread is None:
        return "-"
    return plus_minus(spread, form) + (f" ({len(spread.values)} of {n_seeds} seeds)" if len(spread.values) < n_seeds else "")


def trials_table(study: Study, results: Sequence[ArmResult]) -> str:
    """Final validation losses of the rates that were tried; nothing where there is but one."""
    keys = study.keys
    tried = [result for result in results if result.trials]
    if len(keys.learning_rates) == 1 or not tried:
        return ""
    over = f", {keys.trial_share:.0%} of the budget but for {keys.baseline}" if keys.trial_share < 1 else ""
    heads = [
        f"learning rate, seed {keys.seeds[0]}{over}",
        *(f"{study.base.training.optimizer.lr * factor:.3g}" for factor in sorted(keys.learning_rates)),
    ]
    return _markdown(heads, [[result.name, *_tried(study, result)] for result in tried])


def _tried(study: Study, result: ArmResult) -> list[str]:
    losses = [(factor in result.trials, result.trials.get(factor)) for factor in sorted(study.keys.learning_rates)]
    return ["-" if not known else "diverged" if loss is None else f"{loss:.4f}" for known, loss in losses]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rows))


def _with(spread: Spread | None, words: Callable[[Spread], str]) -> str:
    return "-" if spread is None else words(spread)
