"""What a study leaves: NAME-SIZE.md, its pictures and its numbers as JSON, from the run folders as they are."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raystage.config.study import Study
from raystage.report.digest import digest_of
from raystage.report.run import Run, load_run
from raystage.studies.by_length import by_length
from raystage.studies.figure import save_figure
from raystage.studies.figure_growth import save_overlays
from raystage.studies.growing import growing_of, overlays_of
from raystage.studies.measured import measured, seconds_by_shape
from raystage.studies.page import Findings, page_of
from raystage.studies.results import Runs, results_of, slopes_at_levels
from raystage.studies.runs import StudyRun, due_runs
from raystage.studies.study_folder import StudyFolder
from raystage.tracking.provenance import read_provenance

_PACKAGES = ("raystage", "torch")
_SAME_STEPS = ("pacing.", "model.", "growth.")  # keys by which steps of a shape take no other time


def build_study_report(study: Study, out: Path, command: str) -> Path:
    """Writes the files into `out`; the page's path. Arms whose runs are missing are shown without figures."""
    folder = StudyFolder(study)
    losses = folder.losses()
    trained = _measured(study, {run: load_run(folder.of(run), str(run)) for run in losses})
    overlays = overlays_of(study, losses, trained)
    found = Findings(
        results_of(study, losses, trained),
        len(due_runs(study, losses)),
        _conditions(folder, trained),
        by_length(study, losses, trained),
        growing_of(study, losses, trained, overlays),
        slopes_at_levels(study, losses, trained),
    )
    out.mkdir(parents=True, exist_ok=True)
    save_figure(study, losses, trained, found.results, out / f"{study.name}.png")
    if found.growing:
        save_overlays(study, losses, trained, overlays, out / f"{study.name}-growth.png")
    (out / f"{study.name}.json").write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n", encoding="utf-8")
    page = out / f"{study.name}.md"
    page.write_text(page_of(study, found, command), encoding="utf-8")
    return page


def _measured(study: Study, runs: Mapping[StudyRun, Run]) -> Runs:
    """All on one clock."""
    digests = {name: digest_of(run) for name, run in runs.items()}
    kinds = {name: tuple(each for each in study.arm(name.arm).overrides if not each.startswith(_SAME_STEPS)) for name in runs}
    by_shape = seconds_by_shape((run, digests[name], kinds[name]) for name, run in runs.items())
    return {name: measured(run, digests[name], kinds[name], by_shape) for name, run in runs.items()}


def _conditions(folder: StudyFolder, trained: Runs) -> str:
    """Device, versions and code, as the runs themselves recorded them."""
    devices = sorted({run.digest.device for run in trained.values()})
    trees = [tree for run in trained if (tree := read_provenance(folder.of(run)))]
    versions = {", ".join(f"{name} {tree['packages'][name]}" for name in _PACKAGES if tree["packages"].get(name)) for tree in trees}
    said = [f"Trained on {', '.join(devices) or 'nothing yet'} with {'; '.join(sorted(versions)) or 'nothing yet'}.", *commits_of(trees)]
    if len({tree["corpus"]["digest"] for tree in trees}) > 1:
        said.append("**The runs have not all seen the same text: their sources have changed on the way.**")
    others = [name for run in trained if (name := folder.trained_for(run)) != folder.study.name]
    if others:
        said.append(f"{len(others)} of these {len(trained)} runs were trained for {', '.join(sorted(set(others)))}.")
    return " ".join(said)


def commits_of(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """Commits by number of runs: of the package where it ran from a checkout, else of the folder that the command was given in."""
    for name, whose in (("package", "raystage"), ("git", "the folder that the runs were started in")):
        commits = Counter(commit[:7] for tree in trees if (commit := tree["code"].get(f"{name}_commit")))
        n_changed = sum(bool(tree["code"].get(f"{name}_has_changes")) for tree in trees)
        changed = f", {n_changed} of them with changes that were not committed" if n_changed else ""
        if commits:
            words = ", ".join(f"{commit} ({n})" for commit, n in commits.most_common())
            return [f"Commits of {whose}, by number of runs: {words}{changed}."]
    return []
