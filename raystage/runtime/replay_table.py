"""What `raystage replay` shows: a table of triggers, a growth point in words, and both as plain values for JSON."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from raystage.pacing.fit import CONFIDENCE, Estimate, GrowthFit
from raystage.runtime.replay import ReplayRow
from raystage.tracking.units import count


def replay_table(rows: list[ReplayRow]) -> Table:
    """One line a rule and stage; a dash where a rule never fires."""
    several = len({row.stage for row in rows}) > 1
    table = Table(*(["stage"] if several else []), "rule", "threshold", "step", "tokens", "slope", "surely above", "why", box=SIMPLE)
    for row in rows:
        table.add_row(
            *([str(row.stage + 1)] if several else []),
            row.rule,
            f"{row.threshold:g}",
            "-" if row.step is None else f"{row.step:,}",
            "-" if row.tokens is None else count(row.tokens),
            "-" if row.slope is None else f"{row.slope:.4f} ± {row.slope_se:.4f}",
            "-" if row.slope_bound is None else f"{row.slope_bound:.4f}",
            row.reason if row.step is not None else f"never: {row.reason}",
        )
    return table


def replay_tree(rows: list[ReplayRow]) -> list[dict[str, Any]]:
    """The rows as JSON has them."""
    return [dataclasses.asdict(row) for row in rows]


def fit_table(fit: GrowthFit) -> Table:
    """The growth point with its intervals, and how well the laws fit."""
    table = Table("growth point", "", f"{CONFIDENCE:.0%} interval", box=SIMPLE)

    def add(name: str, estimate: Estimate, shown: str = ".4g") -> None:
        table.add_row(name, *(_span(estimate, shown)))

    add("loss", fit.loss)
    table.add_row("tokens of the small model", count(fit.small_tokens.value), _counts(fit.small_tokens))
    table.add_row("tokens the large one needs", count(fit.large_tokens.value), _counts(fit.large_tokens))
    add("rho, the second over the first", fit.rho)
    add("threshold, slope of the small curve", fit.threshold)
    add("saving of the large curve's compute", fit.saving, ".1%")
    for name, curve in (("small", fit.small), ("large", fit.large)):
        law = curve.law
        formula = f"{law.amplitude:.4g} (tokens / {law.reference_tokens:.3g})^-{law.exponent:.4g} + {law.floor:.4g}"
        table.add_row(f"law of the {name} model", formula, f"residual {curve.residual:.2%}")
    return table


def fit_tree(fit: GrowthFit, small: Path, large: Path) -> dict[str, Any]:
    """The fit as JSON has it."""
    names = ("loss", "small_tokens", "large_tokens", "rho", "threshold", "saving")
    curves = {"small": (small, fit.small), "large": (large, fit.large)}
    return {name: dataclasses.asdict(getattr(fit, name)) for name in names} | {
        name: {"path": str(path), **dataclasses.asdict(curve.law), "residual": curve.residual, "fitted_from_tokens": float(curve.tokens[0])}
        for name, (path, curve) in curves.items()
    }


def _span(estimate: Estimate, shown: str) -> tuple[str, str]:
    return f"{estimate.value:{shown}}", f"{estimate.low:{shown}} to {estimate.high:{shown}}"


def _counts(estimate: Estimate) -> str:
    return f"{count(estimate.low)} to {count(estimate.high)}"
