"""What a study leaves: NAME-SIZE.md, its picture and its numbers as JSON, from the run folders as they are."""

import dataclasses
import json
import platform
from pathlib import Path

from raystage.config.study import Study
from raystage.report.digest import Digest, digest_of
from raystage.report.run import load_run
from raystage.studies.figure import save_figure
from raystage.studies.page import page_of
from raystage.studies.results import results_of
from raystage.studies.runs import StudyRun, counted_runs, due_runs
from raystage.studies.study_folder import StudyFolder
from raystage.tracking.provenance import read_provenance


def build_study_report(study: Study, out: Path, command: str) -> Path:
    """Writes the three files into `out`; the page's path. Arms whose runs are missing are shown without figures."""
    folder = StudyFolder(study)
    losses = folder.losses()
    runs = [run for arm in study.arms for run in counted_runs(study, arm.name, losses)]
    digests = {run: digest_of(load_run(folder.of(run), str(run))) for run in dict.fromkeys(runs)}
    results = results_of(study, losses, digests)
    out.mkdir(parents=True, exist_ok=True)
    save_figure(study, losses, digests, out / f"{study.name}.png")
    tree = [dataclasses.asdict(result) for result in results]
    (out / f"{study.name}.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    page = out / f"{study.name}.md"
    page.write_text(page_of(study, results, len(due_runs(study, losses)), _conditions(folder, digests), command), encoding="utf-8")
    return page


def _conditions(folder: StudyFolder, digests: dict[StudyRun, Digest]) -> str:
    """Device and versions, as the runs themselves recorded them."""
    devices = sorted({digest.device for digest in digests.values()})
    versions = set()
    for run in digests:
        tree = read_provenance(folder.of(run)) or {"packages": {}}
        versions.add(", ".join(f"{name} {tree['packages'][name]}" for name in ("raystage", "torch") if tree["packages"].get(name)))
    n_others = sum(not folder.is_own(run) for run in digests)
    said = f"Trained on {', '.join(devices) or 'nothing yet'} ({platform.machine()}) with {'; '.join(sorted(versions)) or 'nothing yet'}."
    return said + f" {n_others} of these {len(digests)} runs were trained for another study, which has them alike." * bool(n_others)
