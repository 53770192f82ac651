"""What a study found, a sentence an arm: better, worse or not told apart, by the 95% interval of paired differences."""

from collections.abc import Sequence

from raystage.config.study import Study
from raystage.studies.results import ArmResult, Saved
from raystage.studies.spread import Spread


def answer(study: Study, results: Sequence[ArmResult]) -> str:
    """A list in Markdown. The baseline with other budgets is no answer."""
    said = [_sentence(study.keys.baseline, result) for result in results if not result.is_variant]
    return "\n".join(f"- {sentence}" for sentence in said)


def _sentence(baseline: str, result: ArmResult) -> str:
    if not result.n_ended:
        return f"**{result.name}**: {'its rates are being tried' if result.trials else 'not run yet'}."
    diverged = f"{result.n_diverged} of {result.n_ended} runs diverged"
    if result.loss is None:
        return f"**{result.name}**: {diverged}."
    if result.difference is None or result.share is None:
        return f"**{result.name}**: ends at {result.loss.mean:.4f}; there is no run of {baseline} to compare it with."
    verdict = _verdict(result.difference, may_be_better=not result.n_diverged)
    words = [f"**{result.name}** ends {verdict} {baseline}, with {result.share.mean:.0%} of its FLOPs"]
    words += [_saving(baseline, saved) for saved in result.saved]
    n = len(result.difference.values)
    return "; ".join([*words, *([diverged] if result.n_diverged else []), f"{n} seed{'s' * (n > 1)}"]) + "."


def _verdict(difference: Spread, may_be_better: bool) -> str:
    size = f"({difference.mean:+.4f} nats"
    if difference.half_interval is None:
        return f"{'below' if difference.mean < 0 else 'above'} {size})"
    size += f", 95% interval ± {difference.half_interval:.4f})"
    if abs(difference.mean) <= difference.half_interval or (difference.mean < 0 and not may_be_better):
        return f"not told apart {size} from"
    return f"{'better' if difference.mean < 0 else 'worse'} {size} than"


def _saving(baseline: str, saved: Saved) -> str:
    """In the words of the bound: a saving of which only the least, or only the most, is known."""
    mean, half = saved.spread.mean, saved.spread.half_interval
    where = "for the same loss" if saved.level is None else f"for the loss that {baseline} has at {saved.level:.0%} of its run"
    size = f"{abs(mean):.1%}{'' if half is None else f' ± {half:.1%}'} {'less' if mean >= 0 else 'more'} compute"
    return f"{saved.bound + ' ' if saved.bound else ''}{size} than {baseline} {where}"
