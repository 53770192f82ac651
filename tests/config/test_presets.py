"""The presets of tune_configs/: each loads, says its plan, and ends at the model that it is named after."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from raystage.cli import app
from raystage.config import load
from raystage.config.checks import change_counts
from raystage.config.duration import parse_duration
from raystage.models.count import count_parameters
from raystage.models.family import build_model
from raystage.training.policy import plan_of, policy_of
from raystage.training.stage_model import spec_of

FOLDER = Path(__file__).parents[2] / "tune_configs"
PRESETS = sorted(FOLDER.glob("*.yaml"))
GPT2 = {"small": 124e6, "medium": 355e6, "large": 774e6, "xl": 1558e6}  # parameters (Radford et al. 2019, as released)
CLOCKED = ["wikipedia", *(f"gpt2_{size}" for size in GPT2)]


def preset(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


def test_the_promised_presets_are_there() -> None:
    assert {path.stem for path in PRESETS} >= {"quickstart", "reference", *CLOCKED}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads_and_its_plan_prints(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(path)
    monkeypatch.setattr("raystage.cli.terminal", Console(highlight=False, width=200))
    if path.stem in ("gpt2_medium", "gpt2_large", "gpt2_xl"):  # a quarter of a minute each, and like gpt2_small's
        monkeypatch.setattr("raystage.runtime.plan_table.peaks_of", lambda config, stages: [0] * len(stages))
    done = CliRunner().invoke(app, ["plan", str(path)])
    assert done.exit_code == 0, done.output
    rows = [line for line in done.output.splitlines() if line.strip()[:1].isdecimal()]
    assert len(rows) == 1 + sum(change_counts(config).values())
    assert f"run, {config.training.duration}" in rows[-1]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_runs_of_two_presets_do_not_meet(path: Path) -> None:
    assert [other.stem for other in PRESETS if load(other).name == load(path).name] == [path.stem]


@pytest.mark.parametrize("size", GPT2)
def test_gpt2_plans_end_at_the_published_size(size: str) -> None:
    config = load(preset(f"gpt2_{size}"))
    assert config.model.vocab_size is not None
    shape = plan_of(config).shapes()[-1]
    with torch.device("meta"):
        model = build_model(spec_of(config, shape, config.model.vocab_size, eot_id=50256), config.seed)
    assert count_parameters(model) == pytest.approx(GPT2[size], rel=0.01)
    assert (shape.seq_len_tokens, config.model.d_model // config.model.n_head) == (1024, 64)


@pytest.mark.parametrize("size", GPT2)
def test_gpt2_plans_start_small_and_short(size: str) -> None:
    shapes = plan_of(load(preset(f"gpt2_{size}"))).shapes()
    start, target = shapes[0], shapes[-1]
    assert start.seq_len_tokens == 128
    assert target.n_layer * target.d_model**2 >= 8 * start.n_layer * start.d_model**2


@pytest.mark.parametrize("name", CLOCKED)
def test_every_change_fits_before_the_rate_decays(name: str) -> None:
    config = load(preset(name))
    duration, schedule = parse_duration(config.training.duration), config.training.schedule
    assert (duration.unit, schedule.kind, config.pacing.rule) == ("tokens", "wsd", "slope")
    calls = policy_of(config).last_calls
    assert len(calls) == sum(change_counts(config).values())
    assert 0 < min(calls) <= max(calls) < 1 - schedule.decay_fraction


def test_wikipedia_takes_other_text_as_its_comment_says() -> None:
    config = load(preset("wikipedia"), ["data.sources.0.path=my-train.jsonl", "data.validation_sources.0.path=my-val.jsonl"])
    assert (config.data.sources[0].path, config.data.validation_sources[0].path) == ("my-train.jsonl", "my-val.jsonl")
    assert load(preset("wikipedia"), ["data.validation_sources=[]"]).data.validation_sources == ()


def test_xl_takes_the_width_growth_that_its_comment_offers() -> None:
    shapes = plan_of(load(preset("gpt2_xl"), ["pacing.widths=[320,1600]"])).shapes()
    assert (shapes[0].d_model, shapes[-1].d_model) == (320, 1600)
