import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from raystage.config import ConfigError
from raystage.report import build_report, side_by_side
from raystage.report.build import report_texts
from raystage.report.config_diff import differing_keys
from raystage.report.digest import digests_of
from raystage.report.panels import look_of
from raystage.report.run import named
from tests.made_run import MadeStage, made_records, write_lines, write_made_run


class Reader(html.parser.HTMLParser):
    """Text, sources and tags of a page, and whether every tag is closed."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.sources: list[str | None] = []
        self.ids: list[str | None] = []
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data + " "


def read(page: Path | str) -> Reader:
    reader = Reader()
    reader.feed(page.read_text() if isinstance(page, Path) else page)
    assert not reader.open
    return reader


def page_of(*folders: Path) -> str:
    return report_texts(digests_of(named(folders)))[0]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_made_run(tmp_path_factory.mktemp("runs") / "quick<b>start")
    (folder / "report").mkdir()
    (folder / "report" / "sample.txt").write_text("if x < 1 & y: '<script>alert(1)</script>'\n")
    build_report([folder], folder / "report")
    return folder


def test_page_says_what_the_run_came_to(run_dir: Path) -> None:
    text = re.sub(r"\s+", " ", read(run_dir / "report" / "index.html").text)
    for part in ("3.173", "23.88", "1.43M", "4.68e12", "1 min 43 s", "46 %", "1.01e13 FLOPs", "len 128 · 4 layers x 128, 1.05M parameters"):
        assert part in text
    for part in ("length 32→64", "length 64→128", "depth 2→4", "width 64→128", "slope -0.09994 above -0.1", "probe 3.496217 → 3.496217"):
        assert part in text
    assert "steps 121 to 230" in text
    assert "2 workers · cpu" in text


def test_page_stands_alone_and_is_escaped(run_dir: Path) -> None:
    reader = read(run_dir / "report" / "index.html")
    assert all(source and source.startswith("#") for source in reader.sources), "it refers to nothing but itself"
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.tags.count("script") == 2
    assert "b" not in reader.tags
    assert "<script>alert(1)</script>" in reader.text
    assert "n_layer: 4" in reader.text
    assert (run_dir / "report" / "index.html").stat().st_size < 600_000


def test_a_name_can_be_no_markup_and_no_formula(tmp_path: Path) -> None:
    names = ["_a$b^{$", "</script><i>", "'\"&amp;"]
    folders = [write_made_run(tmp_path / str(i) / name.replace("/", "\u2215"), (MadeStage(32, 1, 64, 20),)) for i, name in enumerate(names)]
    out = tmp_path / "out"
    reader = read(build_report(folders, out))
    assert not {"i", "b"} & set(reader.tags)
    for folder in folders:
        assert folder.name in reader.text
    assert [run["name"] for run in json.loads((out / "report.json").read_text())["runs"]] == [folder.name for folder in folders]


def test_every_picture_has_a_title_a_description_and_a_caption(run_dir: Path) -> None:
    page = (run_dir / "report" / "index.html").read_text()
    figures = page.split("<figure")[1:]
    titles = [re.search(r"<h3>(.+?)</h3>", figure)[1] for figure in figures]  # type: ignore[index]
    assert titles == [
        "Loss over tokens",
        "Loss over compute",
        "Loss over time",
        "Slope and threshold",
        "Loss ratio",
        "Gradient norm",
        "Largest second moment",
        "Throughput",
    ]
    assert all(re.search(r'role="img" aria-label="[^"]{40,}"', figure) and "<figcaption>" in figure for figure in figures)
    assert "validation, full length ends at 3.173" in figures[0]


def test_every_number_of_a_table_says_where_it_is_from(run_dir: Path, tmp_path: Path) -> None:
    other = write_made_run(tmp_path / "other", (MadeStage(128, 4, 128, 60, workers=4),), seed=2)
    for page in (page_of(run_dir), page_of(run_dir, other)):
        cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
        numbers = [cell for cell in cells if re.match(r"[+-]?\d", re.sub(r"<[^>]+>", "", cell)) and " · len " not in cell]
        assert len(numbers) > 30
        assert [cell for cell in numbers if "<span title=" not in cell] == []


def test_png_is_a_picture_with_three_panels_a_row(run_dir: Path) -> None:
    with Image.open(run_dir / "report" / "report.png") as image:
        assert image.width > 1500
        assert 1.1 < image.width / image.height < 1.5


def test_the_same_records_make_the_same_page(run_dir: Path) -> None:
    assert page_of(run_dir) == (run_dir / "report" / "index.html").read_text()


def test_large_runs_in_several_processes_make_the_same_page(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    static = write_made_run(tmp_path / "static", (MadeStage(128, 4, 128, 30, workers=4),), seed=2)
    monkeypatch.setattr(side_by_side, "_LARGE_BYTES", 1)
    monkeypatch.setattr(side_by_side, "n_cores", lambda: 2)
    assert build_report([run_dir, static], tmp_path / "out").read_text() == page_of(run_dir, static)
    (static / "metrics.jsonl").write_text("{\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:1: not a JSON object"):
        build_report([run_dir, static], tmp_path / "out")


def test_runs_side_by_side(run_dir: Path, tmp_path: Path) -> None:
    static = write_made_run(tmp_path / "static", (MadeStage(128, 4, 128, 300),), seed=2)
    text = re.sub(r"\s+", " ", read(build_report([run_dir, static], tmp_path / "both", baseline="static")).text)
    for part in ("2 runs side by side", "quick<b>start: stages", "static: stages", "100 %", "46 %", "Against static", "n_layer"):
        assert part in text
    with pytest.raises(ConfigError, match=r"--baseline absent: not among the runs of the report; one of quick<b>start, static"):
        build_report([run_dir, static], tmp_path / "both", baseline="absent")


def test_ten_runs_differ_without_their_colours() -> None:
    assert len({(look_of("val_loss", index, 10).dash, look_of("val_loss", index, 10).marker) for index in range(10)}) == 10
    assert len({look_of("val_loss", index, 10).marker for index in range(10)}) == 10


def test_configurations_are_compared_key_by_key() -> None:
    texts = ["name: a\nmodel: {n_layer: 2, d_model: 8}\nat: [1, 2]\n", "name: b\nmodel: {n_layer: 4, d_model: 8}\nat: [1, 2]\nnew: x\n"]
    assert differing_keys(texts) == [("model.n_layer", ["2", "4"]), ("new", ["", "x"])]
    assert differing_keys(texts[:1]) == differing_keys([*texts, None]) == []


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    short = (MadeStage(32, 1, 64, 20),)
    runs = [write_made_run(tmp_path / parent / "run", short) for parent in ("a", "b")]
    assert [name for _, name in named(runs)] == ["a/run", "b/run"]


def test_a_run_without_checks_or_validation(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run", (MadeStage(32, 1, 64, 20),))
    metrics, _ = made_records((MadeStage(32, 1, 64, 20),))
    write_lines(folder / "metrics.jsonl", [record for record in metrics if record["kind"] == "train"])
    (folder / "decisions.jsonl").unlink()
    reader = read(build_report([folder], tmp_path / "out"))
    assert "Slope and threshold" not in reader.text
    assert "not ended, at step 20" in reader.text


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_of_a_step_or_two_with_no_finite_loss(tmp_path: Path, steps: int) -> None:
    folder = write_made_run(tmp_path / "run", (MadeStage(32, 1, 64, steps),))
    metrics, _ = made_records((MadeStage(32, 1, 64, steps),))
    write_lines(folder / "metrics.jsonl", [{**record, "loss": None, "val_loss": None} for record in metrics])
    assert "n/a" in read(build_report([folder], tmp_path / "out")).text


def test_refused_and_other_decisions_are_listed(tmp_path: Path) -> None:
    stages = (MadeStage(32, 1, 64, 40), MadeStage(64, 1, 64, 40))
    folder = write_made_run(tmp_path / "run", stages)
    _, decisions = made_records(stages)
    refused = {**decisions[0], "decision_id": 2, "kind": "grow_depth", "to": {**decisions[0]["to"], "n_layer": 2}, "outcome": "refused"}
    hold = {**decisions[0], "decision_id": 3, "kind": "hold", "trigger": "guard", "slope": None, "effective_step": 70}
    write_lines(folder / "decisions.jsonl", [*decisions, {**refused, "effective_step": 60}, hold])
    text = read(page_of(folder)).text
    assert "depth 1→2 refused at step 60" in text
    assert "hold at step 70 (by the guard)" in text


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run", (MadeStage(32, 1, 64, 8000), MadeStage(64, 1, 64, 8000)))
    assert len(page_of(folder)) < 600_000


def test_missing_empty_and_broken_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one run folder"):
        build_report([], tmp_path)
    with pytest.raises(ConfigError, match="absent: no such run folder"):
        build_report([tmp_path / "absent"], tmp_path)
    with pytest.raises(ConfigError, match="holds no training steps"):
        build_report([tmp_path], tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:1"):
        build_report([tmp_path], tmp_path)
    with pytest.raises(ConfigError, match="twice"):
        build_report([tmp_path, tmp_path], tmp_path)
    assert not list(tmp_path.glob("index.html"))


def test_works_where_torch_and_mlflow_are_not(run_dir: Path, tmp_path: Path) -> None:
    blocked = {"torch": None, "mlflow": None, "ray": None, "matplotlib.pyplot": None}
    code = (
        f"import sys, pathlib; sys.modules.update({json.dumps(blocked).replace('null', 'None')})\n"
        f"from raystage.report import build_report; build_report([pathlib.Path({str(run_dir)!r})], pathlib.Path({str(tmp_path)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
    assert (tmp_path / "index.html").exists()


def test_slopes_beyond_their_panel(tmp_path: Path) -> None:
    """A run whose few known slopes are all far steeper than any threshold."""
    folder = write_made_run(tmp_path / "steep")
    metrics, _ = made_records()
    checks = [record for record in metrics if record["kind"] == "check"][:3]
    others = [record for record in metrics if record["kind"] != "check"]
    write_lines(
        folder / "metrics.jsonl", [*others, *({**check, "slope": -3.0, "slope_bound": -2.8, "threshold": None} for check in checks)]
    )
    assert build_report([folder], tmp_path / "report").is_file()
