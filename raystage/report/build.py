"""A report: `index.html`, `report.png` and `report.json` in one folder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from raystage.report.data import report_data
from raystage.report.digest import Digest, digests_of
from raystage.report.figure import pictures_of, save_png
from raystage.report.page import page_html
from raystage.report.run import named
from raystage.report.side_by_side import SideBySide, for_runs
from raystage.report.study import baseline_index, study_of
from raystage.report.throughput import scaling_of


def build_report(run_dirs: Sequence[Path], out_dir: Path, baseline: str | None = None) -> Path:
    """Writes page, picture and data on the runs into `out_dir`; returns the page's path. `baseline`: a run's name; default the first.

    Raises ConfigError for a run folder that is missing, empty or broken, or a baseline that is not among them.
    """
    folders = named(run_dirs)
    index = baseline_index([name for _, name in folders], baseline)
    with for_runs([folder for folder, _ in folders]) as side_by_side:
        runs = digests_of(folders, side_by_side)
        out_dir.mkdir(parents=True, exist_ok=True)
        png = side_by_side(partial(save_png, runs), [out_dir / "report.png"])
        page, data = report_texts(runs, index, side_by_side)
        list(png)
    (out_dir / "report.json").write_text(data + "\n", encoding="utf-8")
    (out_dir / "index.html").write_text(page, encoding="utf-8")
    return out_dir / "index.html"


def report_texts(runs: Sequence[Digest], baseline: int = 0, side_by_side: SideBySide = map) -> tuple[str, str]:
    """The page and its data."""
    study = study_of(runs, baseline)
    scaling = scaling_of([row for run in runs for row in run.throughputs])
    pictures = pictures_of(runs, side_by_side)
    data = report_data(runs, study, scaling, pictures)
    return page_html(runs, study, scaling, pictures, data), data
