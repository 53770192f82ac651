import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from raystage.config import ConfigError
from raystage.report import build_report
from raystage.report.page import page_html
from raystage.report.run import load_runs
from tests.made_run import MadeStage, made_records, write_lines, write_made_run


class Reader(html.parser.HTMLParser):
    """Text, sources and tags of a page, and whether every tag is closed."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.text, self.sources, self.open, self.tags = "", [], [], []  # type: ignore[var-annotated]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def read(page: Path | str) -> Reader:
    reader = Reader()
    reader.feed(page.read_text() if isinstance(page, Path) else page)
    assert not reader.open
    return reader


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
    assert len(reader.sources) == 4
    assert all(source.startswith("data:image/svg+xml;base64,") for source in reader.sources)
    assert not {"script", "b"} & set(reader.tags)
    assert "<script>alert(1)</script>" in reader.text
    assert "n_layer: 4" in reader.text
    assert (run_dir / "report" / "index.html").stat().st_size < 600_000


def test_png_is_a_picture_with_four_panels(run_dir: Path) -> None:
    with Image.open(run_dir / "report" / "report.png") as image:
        assert image.width > 1500
        assert 1.2 < image.width / image.height < 1.8


def test_the_same_records_make_the_same_page(run_dir: Path) -> None:
    assert page_html(load_runs([run_dir])) == (run_dir / "report" / "index.html").read_text()


def test_runs_side_by_side(run_dir: Path, tmp_path: Path) -> None:
    static = write_made_run(tmp_path / "static", (MadeStage(128, 4, 128, 300),), seed=2)
    reader = read(build_report([run_dir, static], tmp_path / "both"))
    assert len(reader.sources) == 4
    for part in ("2 runs side by side", "quick<b>start: stages", "static: stages", "100 %", "46 %"):
        assert part in reader.text


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    short = (MadeStage(32, 1, 64, 20),)
    runs = [write_made_run(tmp_path / parent / "run", short) for parent in ("a", "b")]
    assert [run.name for run in load_runs(runs)] == ["a/run", "b/run"]


def test_a_run_without_checks_or_validation(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run", (MadeStage(32, 1, 64, 20),))
    metrics, _ = made_records((MadeStage(32, 1, 64, 20),))
    write_lines(folder / "metrics.jsonl", [record for record in metrics if record["kind"] == "train"])
    (folder / "decisions.jsonl").unlink()
    reader = read(build_report([folder], tmp_path / "out"))
    assert len(reader.sources) == 3
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
    text = read(page_html(load_runs([folder]))).text
    assert "depth 1→2 refused at step 60" in text
    assert "hold at step 70 (by the guard)" in text


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run", (MadeStage(32, 1, 64, 8000), MadeStage(64, 1, 64, 8000)))
    assert len(page_html(load_runs([folder]))) < 1_200_000


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
