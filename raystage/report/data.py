"""The data of a report for programs: every number of its tables and every series of its pictures, with the records they are from."""

import json
from collections.abc import Sequence

import numpy as np

from raystage.report.account import cited_account
from raystage.report.cited import Cited
from raystage.report.columns import Values
from raystage.report.digest import Digest
from raystage.report.drawing import Drawn
from raystage.report.figure import Picture
from raystage.report.panels import LABELS
from raystage.report.series import Series
from raystage.report.study import Study
from raystage.report.throughput import Scaling


def report_data(runs: Sequence[Digest], study: Study | None, scaling: Sequence[Scaling], pictures: Sequence[Picture]) -> str:
    """JSON: `runs`, `study`, `scaling`, `series` (what each picture draws), `points` (step and value of each point, by run and series)."""
    drawn = [each for picture in pictures for each in picture.drawn]
    points = {read: _points(each) for each in drawn if (read := _read(each))}
    tree = {
        "runs": [_run(run) for run in runs],
        "study": None if study is None else _study(study),
        "scaling": [_scaling(row) for row in scaling],
        "series": [_series(each, runs) for each in drawn],
        "points": points,
    }
    # no text of a run may end the script element that this stands in
    return json.dumps(tree, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _read(drawn: Drawn) -> str | None:
    """The key of its points in `points`, the same in every panel; None where a point is no record's own."""
    return None if drawn.run is None or drawn.series.is_smooth or drawn.name == "decisions" else f"{drawn.run}-{drawn.name}"


def _run(run: Digest) -> dict[str, object]:
    return {
        "name": run.name,
        "numbers": _named(vars(run.facts)),
        "evaluations": [{"checkpoint": each.checkpoint, "numbers": _named(dict(each.figures))} for each in run.evaluations],
        "account": _named(cited_account(run.account, run.last_step)),
        "stages": [
            {"shape": stage.shape, "first_step": stage.first_step, "last_step": stage.last_step}
            | {name: cited.to_json() for name, cited in stage.numbers.items()}
            for stage in run.stages
        ],
        "throughput": [
            {"shape": row.shape, "workers": row.workers, "steps": row.n_steps, "tokens_per_s": row.tokens_per_s.to_json()}
            for row in run.throughputs
        ],
    }


def _study(study: Study) -> dict[str, object]:
    rows = [{"name": row.name, "needed": _named(row.needed), "saved": _named(row.saved), "equal": _named(row.equal)} for row in study.rows]
    return {"baseline": study.baseline, "target": study.target.to_json(), "rows": rows}


def _named(found: dict[str, Cited] | None) -> dict[str, object] | None:
    return None if found is None else {name: cited.to_json() for name, cited in found.items()}


def _scaling(row: Scaling) -> dict[str, object]:
    of = row.throughput
    return {"run": of.run, "shape": of.shape, "workers": of.workers, "ratio": row.ratio, "efficiency": row.efficiency}


def _series(drawn: Drawn, runs: Sequence[Digest]) -> dict[str, object]:
    series, x = drawn.series, drawn.series.at[drawn.panel.x.key]
    known = np.flatnonzero(np.isfinite(series.y))
    ends = {name: _end(series, x, int(known[i])) for name, i in (("first", 0), ("last", -1))}
    return {
        "id": drawn.id,
        "run": None if drawn.run is None else runs[drawn.run].name,
        "file": series.file,
        "kind": series.kind,
        "key": series.key,
        "x_key": drawn.panel.x.key,
        "how": series.how,
        "name": LABELS[drawn.name],
        "records": series.n_records,
        "values": series.n_values,
        "points": len(drawn.seen),
        "beyond": drawn.n_beyond,
        "read": _read(drawn),
        **ends,
    }


def _end(series: Series, x: Values, i: int) -> dict[str, float]:
    return {"step": int(series.at["step"][i]), "x": float(x[i]), "y": float(series.y[i])}


def _points(drawn: Drawn) -> dict[str, list[float]]:
    step, y = drawn.series.at["step"][drawn.seen], drawn.series.y[drawn.seen]
    return {"step": step.astype(int).tolist(), "y": [float(f"{each:.6g}") for each in y]}
