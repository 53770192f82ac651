"""The report of a search: a picture of the objective over the space, a table of all points, the cost, what was rejected and why."""

import json
from collections.abc import Mapping
from pathlib import Path

import jinja2

from raystage.config.search import Search
from raystage.config.search_space import Point, Space
from raystage.report.style import applied
from raystage.tuning.book import Book
from raystage.tuning.point_result import PointResult
from raystage.tuning.search_figure import draw
from raystage.tuning.summary import Summary
from raystage.tuning.trial_config import TrialConfigs


def build_search_report(search: Search, space: Space, book: Book, configs: TrialConfigs, summary: Summary, folder: Path) -> Path:
    """Writes `report/index.html`, `search.png` and `points.json`; the page's path."""
    out, told = folder / "report", book.told
    out.mkdir(parents=True, exist_ok=True)
    with applied():
        uri = draw(search, space, told, summary.chosen, out / "search.png")
    rows = [_row(space, point, result, point == summary.chosen) for point, result in _ordered(told)]
    (out / "points.json").write_text(json.dumps({"search": search.name, "share_of_a_run": summary.share, "points": rows}, indent=1))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raystage.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("search.html").render(
        search=search, keys=space.keys, rows=rows, summary=summary, uri=uri, horizon=configs.horizon or configs.base.training.duration
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    return out / "index.html"


def _ordered(told: Mapping[Point, PointResult]) -> list[tuple[Point, PointResult]]:
    """Good points first, the best of them foremost."""
    return sorted(told.items(), key=lambda item: (not item[1].is_good, float("inf") if item[1].value is None else item[1].value, item[0]))


def _row(space: Space, point: Point, result: PointResult, chosen: bool) -> dict[str, object]:
    return {"point": dict(point), "chosen": chosen, **vars(result)}
