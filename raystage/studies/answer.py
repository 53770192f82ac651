"""What a study found, a sentence an arm: better, worse or not told apart, by the 95% interval of paired differences."""

from collections.abc import Sequence

from raystage.config.study import Study
from raystage.studies.results import ArmResult, Spread


def answer(study: Study, results: Sequence[ArmResult]) -> str:
    """A list in Markdown; arms of the reference are no answers."""
    reference = () if study.keys.reference == "curve" else study.keys.reference
    said = [_sentence(study, result) for result in results if result.name not in (study.keys.baseline, *reference)]
    return "\n".join(f"- {sentence}" for sentence in said)


def _sentence(study: Study, result: ArmResult) -> str:
    if result.loss is None:
        return f"**{result.name}**: no run of it has ended well."
    if result.difference is None or result.share is None:
        return f"**{result.name}**: there is no baseline to compare it with yet."
    words = f"**{result.name}** ends {_verdict(result.difference)} {study.keys.baseline}, with {result.share.mean:.0%} of its FLOPs"
    saved = result.saved[-1] if result.saved else None
    if saved is not None:
        spent = f"{abs(saved.mean):.0%} {'less' if saved.mean >= 0 else 'more'} compute than {study.keys.baseline} takes for the same loss"
        words += f"; {spent} ({_range(saved)})"
    return words + f"; {len(result.loss.values)} seeds."


def _verdict(difference: Spread) -> str:
    size = f"({difference.mean:+.4f} nats"
    if difference.half_interval is None:
        return f"{'below' if difference.mean < 0 else 'above'} {size}, one seed)"
    size += f", 95% interval ± {difference.half_interval:.4f})"
    if abs(difference.mean) <= difference.half_interval:
        return f"not told apart {size} from"
    return f"{'better' if difference.mean < 0 else 'worse'} {size} than"


def _range(spread: Spread) -> str:
    low, high = min(spread.values), max(spread.values)
    return f"{low:.0%} to {high:.0%}" if len(spread.values) > 1 else "one seed"
