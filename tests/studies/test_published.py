"""What is said of the studies is what their files say: pages have their pictures, and the README their numbers."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from raystage.config.study import read_study
from raystage.studies.page import Findings, page_of
from raystage.studies.spread import Spread

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "docs" / "studies"
PUBLISHED = sorted(STUDIES.glob("*.json"))


def results_in(path: Path) -> dict[str, Any]:
    return {result["name"]: result for result in json.loads(path.read_text())["results"]}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_page_has_its_pictures_and_its_numbers(path: Path) -> None:
    page = path.with_suffix(".md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert pictures
    assert all((STUDIES / name).is_file() for name in pictures)
    for result in results_in(path).values():
        if result["loss"]:
            assert f"| {statistics.fmean(result['loss']['values']):.4f} " in page


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_page_is_what_the_command_makes_of_its_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has typed into it, and the study is still the one that was run."""
    monkeypatch.chdir(ROOT)
    name, _, size = path.stem.rpartition("-")
    study = read_study(Path("tune_configs", "reproduce", f"{name}.yaml"), size)
    found = TypeAdapter(Findings).validate_json(path.read_bytes())
    assert path.with_suffix(".md").read_text() == page_of(study, found, f"raystage reproduce {name} --size {size}")


def test_the_readme_tells_the_study_of_everything() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| \*\*(\S+)\*\*: .*$", readme, re.MULTILINE)
    assert {"static", "slope"} <= set(rows)
    results = results_in(STUDIES / "everything-small.json")
    for name in rows:
        line = next(line for line in readme.splitlines() if line.startswith(f"| **{name}**: "))
        assert line.split(" | ", 1)[1] == figures_of(results[name]), name


@pytest.mark.parametrize("page", ["README.md", "docs/studies/README.md"])
def test_what_growing_saves_beside_a_smaller_model_is_quoted_as_it_is(page: str) -> None:
    mean, half = beside("everything", "slope", "two-layers-long", "saved")
    assert f"{100 * mean:.1f} ± {100 * half:.1f} points less" in _text(page)


@pytest.mark.parametrize("page", ["README.md", "docs/studies/README.md"])
@pytest.mark.parametrize("part", ["length", "depth"])
def test_what_both_save_beside_one_alone_is_quoted_as_it_is(page: str, part: str) -> None:
    mean, half = beside("everything", "slope", part, "saved")
    assert f"{100 * mean:.1f} ± {100 * half:.1f} points" in _text(page)


TEXTS = {"Wikipedia": "automatic_wikipedia", "Python sources": "automatic_python", "C++ headers": "automatic_cpp"}


@pytest.mark.parametrize("text", TEXTS)
def test_the_readme_tells_what_the_slope_saves_on_each_text(text: str) -> None:
    results = results_in(STUDIES / f"{TEXTS[text]}-small.json")
    schedules = [result for name, result in results.items() if name.startswith("table")]
    best = max(schedules, key=lambda result: statistics.fmean(result["saved"][0]["spread"]["values"]))
    cells = [_signed(result["saved"][0]) for result in (results["automatic"], results["automatic-paper"], best)]
    assert f"| {text} ([{TEXTS[text]}](docs/studies/{TEXTS[text]}-small.md)) | {' | '.join(cells)} |" in (ROOT / "README.md").read_text()


README, OF_STUDIES, OF_DEFAULTS = "README.md", "docs/studies/README.md", "docs/defaults.md"
SAVINGS = [
    ("everything", ["slope", "two-layers-long"], [README, OF_STUDIES]),
    ("everything", ["slope", "depth"], [OF_DEFAULTS]),
    ("growth", ["4xW", "2x2xD"], [README, OF_STUDIES, OF_DEFAULTS]),
    ("everything", ["slope", "depth", "length"], [OF_STUDIES]),
    ("automatic_wikipedia", ["automatic", "automatic-paper"], [OF_STUDIES, OF_DEFAULTS]),
    ("automatic_wikipedia", ["table-early", "table-middle", "table-late"], [OF_STUDIES]),
    ("automatic_python", ["automatic", "automatic-paper", "table-early"], [OF_STUDIES]),
    ("automatic_cpp", ["automatic", "automatic-paper"], [OF_STUDIES, OF_DEFAULTS]),
    ("automatic_cpp", ["automatic", "table-early"], [README, OF_STUDIES]),
    ("from_zero", ["one-50", "one-70", "one-80", "zero-50"], [OF_STUDIES]),
]


@pytest.mark.parametrize(("study", "arm", "page"), [(study, arm, page) for study, arms, pages in SAVINGS for arm in arms for page in pages])
def test_a_saving_is_quoted_as_it_is(study: str, arm: str, page: str) -> None:
    saved = Spread(tuple(results_in(STUDIES / f"{study}-small.json")[arm]["saved"][-1]["spread"]["values"]))
    assert f"{abs(saved.mean):.0%} ± {saved.half_interval:.0%}" in _text(page)


def test_the_readme_says_where_the_slope_ends_beside_the_target() -> None:
    difference = Spread(tuple(results_in(STUDIES / "everything-small.json")["slope"]["difference"]["values"]))
    assert f"({difference.mean:+.3f} ± {difference.half_interval:.3f} nats)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/studies/README.md"])
def test_what_a_length_warmup_saves_is_quoted_as_it_is(page: str) -> None:
    (saved,) = results_in(STUDIES / "warmup-small.json")["truncate"]["saved"]
    assert f"{saved['bound']} {statistics.fmean(saved['spread']['values']):.0%}" in _text(page)


@pytest.mark.parametrize(
    ("page", "arm"), [("docs/defaults.md", "truncate"), ("docs/studies/README.md", "truncate"), ("docs/defaults.md", "batch")]
)
def test_how_far_warmups_end_from_full_context_is_quoted_as_it_is(page: str, arm: str) -> None:
    difference = Spread(tuple(results_in(STUDIES / "warmup-small.json")[arm]["difference"]["values"]))
    assert f"{abs(difference.mean):.3f} ± {difference.half_interval:.3f} nats" in _text(page)


@pytest.mark.parametrize("page", ["docs/defaults.md", "docs/studies/README.md"])
def test_what_the_thresholds_of_before_do_is_quoted_as_it_is(page: str) -> None:
    for study in ("automatic_wikipedia", "automatic_cpp"):
        mean, half = beside(study, "automatic-paper", "automatic")
        assert f"{mean:.3f} ± {half:.3f} nats" in _text(page)
    mean, half = beside("automatic_python", "automatic-paper", "automatic", "saved")
    assert f"{-100 * mean:.1f} ± {100 * half:.1f} points" in _text(page)


@pytest.mark.parametrize("page", ["README.md", "docs/studies/README.md"])
def test_the_slope_beside_the_grid_is_quoted_as_it_is(page: str) -> None:
    mean, half = beside("automatic_wikipedia", "automatic", "table-early")
    assert f"{-mean:.3f} ± {half:.3f} nats" in _text(page)


@pytest.mark.parametrize("page", ["docs/defaults.md", "docs/studies/README.md"])
@pytest.mark.parametrize("arm", ["one-70-copy", "one-70-fresh"])
def test_what_new_layers_cost_is_quoted_as_it_is(page: str, arm: str) -> None:
    (beside,) = results_in(STUDIES / "from_zero-small.json")[arm]["against"]
    difference = Spread(tuple(beside["difference"]["values"]))
    assert f"{difference.mean:.3f} ± {difference.half_interval:.3f}" in _text(page)


def beside(study: str, arm: str, other: str, what: str = "difference") -> tuple[float, float]:
    """An arm beside another one, the mean and half of its interval: of the loss, or of the share that it saves."""
    against = results_in(STUDIES / f"{study}-small.json")[arm]["against"]
    spread = Spread(tuple(next(each for each in against if each["name"] == other)[what]["values"]))
    assert spread.half_interval is not None
    return spread.mean, spread.half_interval


def _text(page: str) -> str:
    """In one line, so that no quote is broken."""
    return " ".join((ROOT / page).read_text().replace("+-", "±").split())


def figures_of(result: dict[str, Any]) -> str:
    """Compute, time, final loss, and the saving with half of its 95% interval."""
    share, time_share, loss = (Spread(tuple(result[key]["values"])) for key in ("share", "time_share", "loss"))
    saved = "" if result["is_variant"] else _signed(result["saved"][0])
    return f"{share.mean:.0%} | {time_share.mean:.0%} | {loss.mean:.3f} ± {loss.deviation:.3f} | {saved} |"


def _signed(saved: dict[str, Any]) -> str:
    spread = Spread(tuple(saved["spread"]["values"]))
    if saved["bound"] == "at most" and abs(spread.mean) < 0.0005:
        return "nothing less"
    size = f"{saved['bound']} {abs(spread.mean):.0%}" if saved["bound"] else f"{abs(spread.mean):.0%} ± {spread.half_interval:.0%}"
    return f"{size} {'less' if spread.mean >= 0 else 'more'}"
