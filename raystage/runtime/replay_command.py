"""What `raystage replay` is asked and what it answers: a table, plain values for JSON, a picture."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from raystage.config import ConfigError
from raystage.config.pacing import Pacing
from raystage.pacing.fit import GrowthFit
from raystage.report.replay_figure import DrawnCurve, Mark, save_replay
from raystage.runtime.curve_file import RecordedCurve, read_curve
from raystage.runtime.replay import Axes, ReplayRow, axes_of, replay
from raystage.runtime.replay_fit import Recorded, fit_recorded
from raystage.runtime.replay_run import Comparison, compare_run
from raystage.runtime.replay_table import fit_table, fit_tree, replay_table, replay_tree

_N_LAW_POINTS = 200
_NEAR = 50  # rows behind a mark over those that its loss is the mean of
_FLOPS = "compute [FLOPs]"


@dataclasses.dataclass(frozen=True)
class Question:
    """`parameters`: that multiply per token; `batch_tokens`: of one step, for curves without tokens; `plot`: where a picture goes."""

    curve: Path
    parameters: float | None
    batch_tokens: float | None
    plot: Path | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """`comparison`: of a run folder's own decisions with their replay; None for any other curve."""

    table: Table
    tree: Any
    comparison: Comparison | None = None


def answer_replay(question: Question, pacing: Pacing) -> Answer:
    """Where each rule would have fired on the curve. Raises ConfigError."""
    curve = read_curve(question.curve)
    axes = axes_of(curve, question.parameters, question.batch_tokens)
    rows = replay(curve, axes, pacing)
    comparison = compare_run(question.curve) if (question.curve / "config.yaml").is_file() else None
    if question.plot is not None:
        _draw_replay(question.plot, curve, axes, rows)
    return Answer(replay_table(rows), replay_tree(rows), comparison)


def answer_fit(question: Question, large: Path, large_parameters: float | None) -> Answer:
    """The growth point of the question's curve, the small model's, and the large one's. Raises ConfigError."""
    if question.parameters is None or large_parameters is None:
        raise ConfigError("--fit: needs --parameters and --parameters-large, those that multiply per token in either model")
    recorded = [
        Recorded(curve, axes_of(curve, parameters, question.batch_tokens), parameters)
        for curve, parameters in ((read_curve(question.curve), question.parameters), (read_curve(large), large_parameters))
    ]
    fit = fit_recorded(*recorded)
    if question.plot is not None:
        _draw_fit(question.plot, recorded, fit)
    return Answer(fit_table(fit), fit_tree(fit, question.curve, large))


def _draw_replay(path: Path, curve: RecordedCurve, axes: Axes, rows: list[ReplayRow]) -> None:
    x = axes.tokens if axes.compute is None else axes.compute
    marks = []
    for row in rows:
        if row.step is not None:
            at = min(int(np.searchsorted(curve.step, row.step)), len(curve.step) - 1)
            near = curve.loss[max(0, at - at // _NEAR) : at + 1 + at // _NEAR]
            label = f"{row.rule} {row.threshold:g}" if row.slope is not None else row.rule
            marks.append(Mark(float(x[at]), float(near.mean()), label))
    save_replay(
        path,
        [DrawnCurve(curve.path.name, x, curve.loss, curve.stage.astype(float))],
        marks,
        "tokens seen" if axes.compute is None else _FLOPS,
    )


def _draw_fit(path: Path, recorded: list[Recorded], fit: GrowthFit) -> None:
    curves, marks = [], []
    points = ((fit.small, fit.small_tokens, "grow here"), (fit.large, fit.large_tokens, "goes on here"))
    for one, (fitted, tokens, words) in zip(recorded, points, strict=True):
        law_tokens = np.geomspace(fitted.tokens[0], fitted.tokens[-1], _N_LAW_POINTS)
        flops_per_token, curve = 6.0 * one.parameters, one.curve
        x, law_x = flops_per_token * one.axes.tokens, flops_per_token * law_tokens
        curves.append(DrawnCurve(curve.path.name, x, curve.loss, curve.stage.astype(float), law_x, fitted.law.loss(law_tokens)))
        marks.append(Mark(flops_per_token * tokens.value, fit.loss.value, words))
    save_replay(path, curves, marks, _FLOPS)
