"""The page in headless Chromium: every series is there with its points and ends, and is read out when pointed at; nothing complains."""

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raystage.report import build_report
from tests.made_run import STAGES, MadeStage, write_made_run
from tests.report.test_traced import of_kind, records_of

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: chromium, chromium-browser or google-chrome on the PATH")

# points at the first and the last point of every series that can be read out, and writes down what the page says of it
PROBE = """
const told = {};
for (const series of JSON.parse(document.getElementById("data").textContent).series.filter((series) => series.read)) {
  const group = document.getElementById(series.id), svg = group.closest("svg");
  const marks = [...group.querySelectorAll("use")].map((mark) => [+mark.getAttribute("x"), +mark.getAttribute("y")]);
  const line = [...group.children].find((child) => child.tagName === "path");
  const corners = line ? [...line.getAttribute("d").matchAll(/[ML] ?(\\S+) (\\S+)/g)].map((found) => [+found[1], +found[2]]) : marks;
  told[series.id] = [corners[0], corners.at(-1)].map(([x, y]) => {
    const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
    svg.dispatchEvent(new PointerEvent("pointermove", { clientX: at.x, clientY: at.y }));
    return svg.closest("figure").querySelector(".readout").textContent;
  });
  svg.dispatchEvent(new PointerEvent("pointerleave"));
  if (document.querySelector(".nearest")) throw new Error("the mark stays");
}
document.body.append(Object.assign(document.createElement("pre"), { id: "told", textContent: JSON.stringify(told) }));
"""


class Dom(html.parser.HTMLParser):
    """The groups with an id: how many corners their path has, how many marks; and the text of elements with an id."""

    def __init__(self) -> None:
        super().__init__()
        self.corners: dict[str, int] = {}
        self.marks: dict[str, int] = {}
        self.paths: dict[str, int] = {}
        self.text: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        group = next((id_ for name, id_ in reversed(self._open) if name == "g" and id_), None)
        if group and tag == "path" and self._open[-1][0] == "g":
            self.paths[group] = self.paths.get(group, 0) + 1
            self.corners[group] = self.corners.get(group, 0) + len(re.findall("[ML]", given["d"] or ""))
        if group and tag == "use":
            self.marks[group] = self.marks.get(group, 0) + 1
        if tag not in ("meta", "br", "link"):
            self._open.append((tag, given.get("id")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and (id_ := self._open[-1][1]):
            self.text[id_] = self.text.get(id_, "") + data


def opened(page: Path, profile: Path) -> tuple[Dom, list[str]]:
    """The page's document after its scripts, and what the console says."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        "--v=0",
        "--dump-dom",
    ]
    done = subprocess.run([str(CHROMIUM), *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    dom = Dom()
    dom.feed(done.stdout)
    return dom, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def with_script(page: Path, script: str) -> Path:
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return probed


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    stages = (MadeStage(32, 2, 64, 90, workers=1), MadeStage(64, 2, 64, 900, workers=2))
    return [write_made_run(folder / "one<b>", STAGES), write_made_run(folder / "two", stages, seed=2)]


@pytest.mark.parametrize("n_runs", [1, 2])
def test_every_series_is_there_with_its_points_and_ends(folders: list[Path], tmp_path: Path, n_runs: int) -> None:
    page = build_report(folders[:n_runs], tmp_path / "out")
    dom, console = opened(with_script(page, PROBE), tmp_path / "profile")
    assert console == []
    data = json.loads(dom.text["data"])
    told = json.loads(dom.text["told"])
    by_name = {folder.name: folder for folder in folders}
    panels = {series["id"].split("-")[0] for series in data["series"]}
    assert panels >= {"tokens", "compute", "time", "slope", "ratio", "gradient", "moment", "throughput"}
    for series in data["series"]:
        n_points = points_in(dom, series)
        assert n_points == series["points"], series["id"]
        assert series["run"] is None or n_points == points_from_records(by_name[series["run"]], series), series["id"]
        for text, end in zip(told.get(series["id"], []), ("first", "last"), strict=False):
            check_read_out(text, series, series[end], by_name[series["run"]])
    assert len(told) == sum(series["read"] is not None for series in data["series"]) > 5


def points_in(dom: Dom, series: dict[str, Any]) -> int:
    """Vertical lines are a path each; a line has its corners, a series without one its marks."""
    id_ = series["id"]
    if series["kind"] == "decision":
        return dom.paths.get(id_) or dom.marks.get(id_, 0)
    return dom.corners.get(id_) or dom.marks.get(id_, 0)


def points_from_records(folder: Path, series: dict[str, Any]) -> int:
    """As many as there are records with a value, less those beyond the axes, at most 800."""
    if series["kind"] == "decision":
        return len(records_of(folder, "decisions.jsonl")) - series["beyond"]
    records = of_kind(folder, series["kind"])
    if series["kind"] == "check":
        records = [record for record in records if record["slope"] is not None]
    if series["id"].endswith("fired"):
        records = [record for record in records if record["fired"]]
    known = [record for record in records if record[series["key"]] is not None]
    if "60th" in series["how"]:
        n_values = len(known) - ("before" in series["how"])
        return min(60, n_values) - series["beyond"]
    if len(known) > 800 or series["how"].startswith("centred"):
        assert 0 < series["points"] <= 810
        return int(series["points"])
    return len(known) - ("before" in series["how"]) - series["beyond"]


def check_read_out(text: str, series: dict[str, Any], end: dict[str, float], folder: Path) -> None:
    begins = f"{folder.name}, {series['kind']} record of step "
    own = next(part for part in text.split("; ") if part.startswith(begins) and f": {series['name']} " in part)
    step, value = re.search(r"of step ([\d,]+): .* (\S+)$", own).groups()  # type: ignore[union-attr]
    record = next(r for r in of_kind(folder, series["kind"]) if r["step"] == int(step.replace(",", "")))
    if series["beyond"] == 0:
        assert (record["step"], float(value)) == (end["step"], pytest.approx(end["y"], rel=1e-5))
    if series["how"].startswith("every record"):
        assert float(value) == pytest.approx(record[series["key"]], rel=1e-5)


def test_a_complaint_would_be_heard(folders: list[Path], tmp_path: Path) -> None:
    page = build_report(folders[:1], tmp_path / "out")
    _, console = opened(with_script(page, "console.error('made up'); absent();"), tmp_path / "profile")
    assert len(console) == 2
    assert "made up" in console[0]
