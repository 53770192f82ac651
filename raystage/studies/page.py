"""A study in words: protocol, table, answer and picture as Markdown; every number from run folders."""

import dataclasses
from collections.abc import Mapping, Sequence

from raystage.config.study import Study
from raystage.studies.answer import answer
from raystage.studies.by_length import AtLength
from raystage.studies.growing import Growing
from raystage.studies.results import ArmResult
from raystage.studies.spread import Spread
from raystage.studies.tables import growth_table, lengths_table, results_table, trials_table, zeroshot_table


@dataclasses.dataclass(frozen=True)
class Findings:
    """`n_missing`: runs that have not ended; `conditions`: what the others were trained on; `level_slopes`: of the baseline's curve."""

    results: Sequence[ArmResult]
    n_missing: int
    conditions: str
    lengths: Sequence[AtLength] = ()
    growing: Sequence[Growing] = ()
    level_slopes: Mapping[float, Spread] = dataclasses.field(default_factory=dict)


def page_of(study: Study, found: Findings, command: str) -> str:
    """The page."""
    parts = [
        f"# {study.name}",
        study.keys.question,
        f"**Not complete: {found.n_missing} runs or more are missing.**" if found.n_missing else "",
        answer(study, found.results),
        f"![Validation losses, and {'where every arm ends' if study.ends else 'differences from the baseline'}]({study.name}.png)",
        results_table(study, found.results),
        zeroshot_table(found.results),
        growth_table(found.growing),
        f"![Grown runs over the baseline]({study.name}-growth.png)" if found.growing else "",
        lengths_table(study, found.lengths),
        trials_table(study, found.results),
        "## Protocol",
        "\n".join(f"- {line}" for line in _protocol(study, found)),
        f"Made by `{command}`; the runs are ordinary run folders below `{study.base.storage}/{study.name}/runs`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _protocol(study: Study, found: Findings) -> list[str]:
    base, keys = study.base, study.keys
    model, training = base.model, base.training
    return [
        f"Target: {model.family}, {model.n_layer} layers x {model.d_model} channels, {model.context_length} tokens of context; "
        f"{training.batch_tokens:,} tokens a step; base duration {training.duration}; schedule {training.schedule.kind}, "
        f"{training.schedule.warmup_steps} steps of warmup; {training.precision}.",
        f"Text: {', '.join(source.path or source.name or source.kind for source in base.data.sources)}; validation on the same "
        f"{base.validation.rows} held-out rows of the full context in every run.",
        _rates(study),
        f"Seeds: {', '.join(map(str, keys.seeds))}.",
        "FLOPs are those of all stages, attention at its length included; trying learning rates is charged to no arm.",
        _equal_loss(study, found),
        "± is the standard deviation over seeds in the table, half of the 95% interval of the mean (Student's t) in sentences. "
        "Differences and savings are against the baseline of the same seed, which has the same order of the data in every arm.",
        "FLOPs and times are shares of the baseline's of the same seed. Times are estimated: each step counts as the 2nd percentile of the "
        "times of its shape in all runs of the study, and validations, checkpoints, growth and pauses as nothing. Runs went side by side.",
        "A run has come to the baseline's loss at its first validation at or below the one that the baseline ends with; where the learning "
        "rate decays that is late, since most of the loss falls in the decay. A dash: some seed never does, or the column is not for that "
        "arm.",
        *_several(study),
        "Places of changes are shares of the tokens of the run that they are of.",
        found.conditions,
    ]


def _rates(study: Study) -> str:
    keys, peak = study.keys, study.base.training.optimizer.lr
    rates = ", ".join(f"{peak * factor:.3g}" for factor in sorted(keys.learning_rates))
    if len(keys.learning_rates) == 1:
        return f"Learning rate: {rates} in every arm; no other was tried."
    takers: dict[str, list[str]] = {}
    for arm in study.arms:
        if arm.keys.rate_of:
            takers.setdefault(arm.keys.rate_of, []).append(arm.name)
    taken = "".join(f"; that of {whose} is taken by {', '.join(names)}" for whose, names in takers.items())
    return (
        f"Learning rates: {rates}, tried {_tried_over(study)} with seed {keys.seeds[0]}; an arm runs at its best one, with a star "
        f"where that is at the edge of those tried{taken}."
    )


def _several(study: Study) -> list[str]:
    n = sum(bool(arm.overrides) and arm.name not in study.ends and arm.name != study.keys.baseline for arm in study.arms)
    if n < 2 or len(study.keys.seeds) < 2:
        return []
    return [f"The {n} arms are each told apart or not by themselves: where none differed, one in twenty would look as if it did."]


def _tried_over(study: Study) -> str:
    share, baseline = study.keys.trial_share, study.keys.baseline
    if share == 1 or len(study.keys.learning_rates) == 1:
        return "whole"
    return f"over {share:.0%} of an arm's budget (its whole plan in it; {baseline} over all of it)"


def _equal_loss(study: Study, found: Findings) -> str:
    if study.ends:
        return (
            f"Equal loss: what the baseline takes for an arm's loss is read between the ends of {', '.join(study.ends)}, each "
            "with a decay of its own, on straight lines of log loss over log FLOPs; beyond them the nearest end gives a bound."
        )
    if study.keys.reference:
        slopes = ", ".join(f"{spread.mean:.3f} at {level:.0%}" for level, spread in found.level_slopes.items()) or "not known yet"
        return (
            "Equal loss: the learning rate is constant, so that every point of a curve is where a run might have ended; curves are read "
            "on lines of log loss over log FLOPs through the validations within a quarter of the place; of a run that grew only those "
            "after the re-warmup of its last growth, since before it is a smaller model's. One that is better by then already saves at "
            "least so much, "
            f"one that never comes there at most what its whole run does. d log(loss) / d log(FLOPs) of {study.keys.baseline}: {slopes}."
        )
    return "What equal loss would have cost is not asked."
