"""What stands in a report beside the records: samples of text, and evaluations of checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest

from raystage.config import ConfigError
from raystage.report import build_report
from raystage.report.evaluations import columns_of, read_evaluations
from raystage.report.samples import read_samples
from tests.made_run import write_made_run


def evaluation(folder: Path, checkpoint: str, step: int, **metrics: float) -> None:
    (folder / "evaluations").mkdir(exist_ok=True)
    tree: dict[str, Any] = {"model": {"checkpoint": checkpoint, "step": step}}
    for key, value in metrics.items():
        name, figure = key.split("__")
        tree["metrics"] = {f"eval/{name}/{figure}": value}
        (folder / "evaluations" / f"{checkpoint}-{name}-{figure}.json").write_text(json.dumps(tree))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = write_made_run(tmp_path / "beside")
    evaluation(folder, "00000200-1-0", 200, wiki__word_perplexity=812.5)
    evaluation(folder, "00000100-1-0", 100, wiki__word_perplexity=1024.0, lambada__accuracy=0.25)
    (folder / "report").mkdir()
    sample = {"prompt": "if <b>", "temperature": 0.7, "top_k": 0, "top_p": 0.9, "seed": 3, "tokens": 8, "text": "x < 1</pre>"}
    greedy = {**sample, "temperature": 0}
    (folder / "report" / "samples.json").write_text(json.dumps([greedy, sample]))
    return folder


def test_evaluations_are_a_line_a_checkpoint_in_the_order_of_training(run_dir: Path) -> None:
    found = read_evaluations(run_dir)
    assert [each.step for each in found] == [100, 200]
    assert sorted(columns_of(found)) == ["lambada, accuracy", "wiki, word perplexity"]
    cited = found[0].figures["lambada, accuracy"]
    assert (cited.value, cited.steps, cited.file) == (0.25, (100,), "evaluations/00000100-1-0-lambada-accuracy.json")
    assert cited.source == "evaluations/00000100-1-0-lambada-accuracy.json, evaluation record of step 100: eval/lambada/accuracy"


def test_samples_say_how_they_were_drawn(run_dir: Path) -> None:
    assert [sample.settings for sample in read_samples(run_dir / "report")] == ["greedy", "temperature 0.7, top-p 0.9, seed 3"]


def test_the_page_has_both_escaped(run_dir: Path) -> None:
    page = build_report([run_dir], run_dir / "report").read_text()
    assert "<td>00000100-1-0</td>" in page
    assert '<span title="evaluations/00000200-1-0-wiki-word_perplexity.json, evaluation record of step 200' in page
    assert ">812.5</span>" in page
    assert "<b>if &lt;b&gt;</b>x &lt; 1&lt;/pre&gt;" in page
    numbers = json.loads((run_dir / "report" / "report.json").read_text())["runs"][0]["evaluations"][0]["numbers"]
    assert numbers["lambada, accuracy"]["value"] == 0.25


def test_files_of_others_are_left_out(run_dir: Path) -> None:
    for name in ("x.json", "y.json", "z.json"):
        (run_dir / "evaluations" / name).write_text({"x.json": "[]", "y.json": "{", "z.json": '{"results": []}'}[name])
    assert [each.step for each in read_evaluations(run_dir)] == [100, 200]


def test_a_broken_file_of_samples_is_refused_by_name(run_dir: Path) -> None:
    (run_dir / "report" / "samples.json").write_text('[{"prompt": 3}]')
    with pytest.raises(ConfigError, match=r"samples\.json"):
        build_report([run_dir], run_dir / "report")
