"""A report: `report.png` and `index.html` in one folder."""

from collections.abc import Sequence
from pathlib import Path

from raystage.report.figure import save_png
from raystage.report.page import page_html
from raystage.report.run import load_runs


def build_report(run_dirs: Sequence[Path], out_dir: Path) -> Path:
    """Writes `report.png` and `index.html` on the runs into `out_dir`; returns the page's path.

    Raises ConfigError for a run folder that is missing, empty or broken.
    """
    runs = load_runs(run_dirs)
    out_dir.mkdir(parents=True, exist_ok=True)
    save_png(runs, out_dir / "report.png")
    page = out_dir / "index.html"
    page.write_text(page_html(runs), encoding="utf-8")
    return page
