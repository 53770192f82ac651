"""The studies of tune_configs/reproduce/: every arm at every size is a run that could be."""

import pathlib
import subprocess

import pytest
import yaml

from raystage.config.study import read_study
from raystage.models.count import matmul_parameters
from raystage.studies.runs import StudyRun, config_of, due_runs, duration_of
from raystage.training.policy import plan_of
from raystage.training.stage_model import spec_of
from raystage.training.target_cost import target_spec

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "tune_configs" / "reproduce").glob("*.yaml"))
SIZES = [(path, size) for path in FILES for size in yaml.safe_load(path.read_text())["sizes"]]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("path", "size"), SIZES, ids=[f"{path.stem}-{size}" for path, size in SIZES])
def test_every_arm_is_a_run(path: pathlib.Path, size: str) -> None:
    study = read_study(path, size)
    assert study.keys.name == path.stem
    for arm in study.arms:
        config_of(study, StudyRun(arm.name, 1.0, 1), "runs")
    assert due_runs(study, {})


@pytest.mark.parametrize("name", sorted({path.stem for path in FILES} - {"waiting"}))
def test_at_the_small_size_a_model_has_seen_forty_tokens_a_parameter_when_a_table_grows_it(name: str) -> None:
    study = read_study(ROOT / "tune_configs" / "reproduce" / f"{name}.yaml", "small")
    assert 0.2e6 <= matmul_parameters(target_spec(study.base)) <= 0.5e6
    for arm in study.arms:
        config = config_of(study, StudyRun(arm.name, 1.0, 1), "runs")
        shapes, duration = plan_of(config).shapes(), duration_of(arm, study.base)
        for before, after, at in zip(shapes, shapes[1:], config.pacing.at or (), strict=False):
            if (before.n_layer, before.d_model) != (after.n_layer, after.d_model):
                parameters = matmul_parameters(spec_of(config, before, 512, eot_id=0))
                assert at * duration.amount >= 40 * parameters, (arm.name, before)


def test_make_runs_the_study_that_its_target_names() -> None:
    said = subprocess.run(["make", "--dry-run", "reproduce-growth"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "raystage reproduce tune_configs/reproduce/growth.yaml" in said.stdout
