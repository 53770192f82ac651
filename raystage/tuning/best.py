"""best.yaml: the chosen point as a configuration that `raystage train` takes as it is, with how it was found."""

from pathlib import Path

from raystage.config import dump
from raystage.config.search import Search
from raystage.config.search_space import overrides_of
from raystage.tuning.summary import Summary
from raystage.tuning.trial_config import TrialConfigs

BEST_FILE = "best.yaml"


def write_best(search: Search, summary: Summary, configs: TrialConfigs, folder: Path) -> Path | None:
    """Writes it into the search's folder, in one piece; None, and nothing written, while no point may be chosen."""
    path = folder / BEST_FILE
    if summary.chosen is None or summary.result is None:
        path.unlink(missing_ok=True)
        return None
    result = summary.result
    spread = f" +- {result.spread:.2g} over {result.n_seeds} seeds" if result.n_seeds > 1 else ""
    looked_at = f"trials stopped at {configs.horizon}" if configs.horizon else "trials of the whole run"
    comments = [
        f"Found by raystage tune, search {search.name!r} ({search.strategy.kind}), from {search.base}:",
        f"  {'  '.join(overrides_of(summary.chosen))}",
        f"{summary.why[0].upper()}{summary.why[1:]}; {looked_at}.",
        f"There: objective {search.objective.kind} {result.value:.5g}{spread}. The search: {summary}.",
        "To train it: raystage train best.yaml",
    ]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(f"# {line}\n" for line in comments) + dump(configs.chosen(summary.chosen)))
    partial.replace(path)
    return path
