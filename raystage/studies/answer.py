"""What a study found, a sentence an arm: better, worse or not told apart, by the 95% interval of paired differences."""

from collections.abc import Sequence

from raystage.config.study import Study
from raystage.studies.equal_loss import OTHER_WAY
from raystage.studies.results import Against, ArmResult, Saved
from raystage.studies.spread import Spread
from raystage.studies.words import COLUMN_WORDS, plus_minus

_NOTHING = 0.0005


def answer(study: Study, results: Sequence[ArmResult]) -> str:
    """A list in Markdown. The baseline with other budgets is no answer; the baseline itself is one where it diverged."""
    base = next((result for result in results if result.name == study.keys.baseline), None)
    said = [f"**{base.name}**: {_diverged(base)}."] if base and base.n_diverged else []
    by_name, rate_of = {result.name: result for result in results}, {arm.name: arm.keys.rate_of or "" for arm in study.arms}
    for result in results:
        if not result.is_variant:
            said.append(_sentence(study.keys.baseline, base, result, by_name.get(rate_of.get(result.name, ""))))
    return "\n".join(f"- {sentence}" for sentence in said)


def _diverged(result: ArmResult) -> str:
    return f"{result.n_diverged} of {result.n_ended} runs diverged"


def _sentence(baseline: str, base: ArmResult | None, result: ArmResult, rate_of: ArmResult | None) -> str:
    """`rate_of`: the arm whose learning rate it takes."""
    if not result.n_ended:
        return f"**{result.name}**: {_not_run(result, rate_of)}."
    more = [*([_diverged(result)] if result.n_diverged else []), *_columns(base, result)]
    if result.loss is None:
        return f"**{result.name}**: {'; '.join(more)}."
    if result.difference is None or result.share is None:
        alone = f"ends at {result.loss.mean:.4f}; no run of {baseline} that ended well is there to compare it with"
        return f"**{result.name}**: {'; '.join([alone, *more])}."
    verdict = _verdict(result.difference, may_be_better=not result.n_diverged)
    words = [f"**{result.name}** ends {verdict} {baseline}, with {result.share.mean:.0%} of its FLOPs"]
    words += [_saving(baseline, saved) for saved in result.saved]
    words += [_beside(each, may_be_better=not result.n_diverged) for each in result.against]
    n = len(result.difference.values)
    return "; ".join([*words, *more, f"{n} seed{'s' * (n > 1)}"]) + "."


def _not_run(result: ArmResult, rate_of: ArmResult | None) -> str:
    if rate_of is not None and rate_of.trials and all(loss is None for loss in rate_of.trials.values()):
        return f"has no learning rate, since {rate_of.name}, whose it takes, diverged at all of its"
    if not result.trials:
        return "not run yet"
    if all(loss is None for loss in result.trials.values()):
        return f"diverged at all of the {len(result.trials)} rates that were tried"
    return "its rates are being tried"


def _columns(base: ArmResult | None, result: ArmResult) -> list[str]:
    theirs = base.extra if base else {}
    return [
        f"{COLUMN_WORDS[key]}: {plus_minus(spread, '.4g')}"
        + (f" ({base.name}: {plus_minus(theirs[key], '.4g')})" if base and key in theirs else "")
        for key, spread in result.extra.items()
    ]


def _beside(other: Against, may_be_better: bool) -> str:
    said = f"ends {_verdict(other.difference, may_be_better)} {other.name}"
    if other.saved is None:
        return said
    half = other.saved.half_interval
    points = f"{100 * abs(other.saved.mean):.1f}" + ("" if half is None else f" ± {100 * half:.1f}")
    return (
        f"{said}, and its saving is {points} percentage points {'larger' if other.saved.mean >= 0 else 'smaller'} than that of {other.name}"
    )


def _verdict(difference: Spread, may_be_better: bool) -> str:
    size = f"({difference.mean:+.4f} nats"
    if difference.half_interval is None:
        return f"{'below' if difference.mean < 0 else 'above'} {size})"
    size += f", 95% interval ± {difference.half_interval:.4f})"
    if abs(difference.mean) <= difference.half_interval or (difference.mean < 0 and not may_be_better):
        return f"at a loss not told apart {size} from that of"
    return f"{'better' if difference.mean < 0 else 'worse'} {size} than"


def _saving(baseline: str, saved: Saved) -> str:
    """In the words of the bound: a saving of which only the least, or only the most, is known."""
    mean = saved.spread.mean
    where = "for the same loss" if saved.level is None else f"for the loss that {baseline} has at {saved.level:.0%} of its run"
    if saved.bound == "at most" and abs(mean) < _NOTHING:
        return f"saves nothing {where}"
    half = None if saved.bound else saved.spread.half_interval
    size = f"{abs(mean):.1%}" + ("" if half is None else f" ± {half:.1%}")
    # what is saved at most is, where nothing is saved, what is spent at least
    bound = saved.bound if mean >= 0 else OTHER_WAY[saved.bound]
    beyond = f" ({saved.n_beyond} of {len(saved.spread.values)} seeds beyond what is known of {baseline})" if saved.bound else ""
    return f"{bound} {size} {'less' if mean >= 0 else 'more'} compute than {baseline} {where}{beyond}".strip()
