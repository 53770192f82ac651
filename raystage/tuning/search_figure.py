"""The picture of a search: the objective over one dimension, a line for each value of the other."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystage.config.search import Search
from raystage.config.search_space import Point, Space
from raystage.report.style import INK, run_style
from raystage.tuning.point_result import PointResult

_MOST_LINES = 7


def draw(search: Search, space: Space, told: Mapping[Point, PointResult], chosen: Point | None, png: Path) -> str:
    """Saves the picture; the same as a data URI for a page. Crosses: rejected points; a ring: the chosen one."""
    from matplotlib.figure import Figure

    keys = space.keys
    x_key = next((key for key in keys if _is_number(told, key)), keys[0])
    line_key = next((key for key in keys if key != x_key), None)
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    lines = sorted({_value(point, line_key) for point in told}, key=_order)[:_MOST_LINES] if line_key else [""]
    places: dict[str, float] = {}
    for index, line in enumerate(lines):
        points = sorted((p for p in told if line_key is None or _value(p, line_key) == line), key=lambda p: _order(_value(p, x_key)))
        _draw_line(axes, [(_place(_value(p, x_key), places), told[p]) for p in points], index, _short(line))
    if chosen is not None and (value := told[chosen].value) is not None:
        axes.plot([_place(_value(chosen, x_key), places)], [value], "o", ms=15, mfc="none", mec=INK, mew=1.5)
    if places:
        axes.set_xticks(list(places.values()), [_short(text) for text in places])
    axes.set_xlabel(x_key)
    axes.set_ylabel("validation loss" if search.objective.kind == "val_loss" else f"{search.objective.per} to loss {search.objective.loss}")
    axes.set_title("The space searched (ring: chosen; crosses: rejected)")
    if line_key and told:
        axes.legend(title=line_key)
    figure.savefig(png, dpi=150)
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(picture.getvalue()).decode()


def _draw_line(axes: Any, points: list[tuple[float, PointResult]], index: int, label: str) -> None:
    colour, dash = run_style(index)
    good = [(x, r) for x, r in points if r.is_good]
    bad = [(x, r) for x, r in points if not r.is_good and r.value is not None]
    axes.errorbar(
        [x for x, _ in good],
        [r.value for _, r in good],
        [r.spread for _, r in good],
        color=colour,
        ls=dash,
        marker="o",
        ms=5,
        capsize=3,
        label=label,
    )
    axes.plot([x for x, _ in bad], [r.value for _, r in bad], "x", color=colour, ms=8)


def _is_number(told: Mapping[Point, PointResult], key: str) -> bool:
    values = {_value(point, key) for point in told}
    return bool(values) and all(isinstance(json.loads(value), int | float) for value in values)


def _value(point: Point, key: str | None) -> str:
    return dict(point)[key] if key else ""


def _order(text: str) -> Any:
    """Numbers by size, lists by their numbers, anything else after them."""
    value = json.loads(text) if text else 0
    numbers = value if isinstance(value, list) else [value]
    is_numeric = all(isinstance(number, int | float) for number in numbers)
    return (not is_numeric, numbers if is_numeric else [], text)


def _place(text: str, places: dict[str, float]) -> float:
    """Where a value stands on the x axis; what is no number stands side by side."""
    value = json.loads(text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return places.setdefault(text, float(len(places)))


def _short(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:27]}..."
