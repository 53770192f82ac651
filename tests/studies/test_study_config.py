"""The file of a study: sizes, shares of the target, and what is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from raystage.config import ConfigError
from raystage.studies.runs import StudyRun, config_of
from tests.studies.made_study import NO_PACING, TREE, made_study, write_study


def test_lists_are_shares_of_the_target_at_every_size(tmp_path: Path) -> None:
    arms = {"static": {}, "grown": {"shares": {"widths": ["1/2", 1], "depths": ["1/12", 1]}, "set": {"pacing.rule": "slope"}}}
    widths = []
    for size in ("tiny", "large"):
        config = config_of(made_study(tmp_path, size, arms=arms), StudyRun("grown", 1.0, 1), str(tmp_path))
        widths.append(config.pacing.widths)
        assert config.pacing.depths == (1, 2)  # a twelfth of two layers is one at least
    assert widths == [(16, 32), (32, 64)]


def test_no_layers_are_a_share_of_nothing(tmp_path: Path) -> None:
    arms = {"static": {}, "zero": {"shares": {"depths": [0, 1]}, "set": {"pacing.rule": "slope"}}}
    assert config_of(made_study(tmp_path, arms=arms), StudyRun("zero", 1.0, 1), str(tmp_path)).pacing.depths == (0, 2)


def test_a_control_is_smaller_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    lengths = {"rule": "table", "at": [0.5]}
    arms = {"static": {}, "small": {"depth": "1/12", "shares": {"lengths": ["1/2", 1]}, "set": {"pacing": lengths}}}
    study = made_study(tmp_path, arms=arms)
    config = config_of(study, StudyRun("small", 1.0, 1), str(tmp_path))
    assert (config.model.n_layer, config.pacing.depths, config.pacing.lengths) == (1, None, (16, 32))
    assert config_of(study, StudyRun("static", 1.0, 1), str(tmp_path)).model.n_layer == 2


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        made_study(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_control_of_half_the_width_has_half_of_the_heads(tmp_path: Path) -> None:
    arms = {"static": {}, "narrow": {"width": "1/2"}}
    config = config_of(made_study(tmp_path, arms=arms), StudyRun("narrow", 1.0, 1), str(tmp_path))
    target = made_study(tmp_path, arms=arms).base.model
    assert (config.model.d_model, config.model.n_head) == (target.d_model // 2, target.n_head // 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "huge"}, "--size huge: "),
        ({"sizes": [1]}, "sizes: must be a mapping of names to keys"),
        ({"baseline": "other"}, "baseline=other: no such arm; one of static, half, depth"),
        ({"reference": ["static", "quarter"]}, "reference=quarter: no such arm"),
        ({"reference": ["static"]}, "reference=['static']: must be the baseline, static, and the same with another budget"),
        ({"reference": ["half", "depth"]}, "reference=['half', 'depth']: must be the baseline"),
        ({"reference": ["static", "depth"]}, "reference=depth: must be static with another budget; this arm differs in more"),
        ({"reference": "curve"}, "reference=curve: needs training.schedule.kind=constant, not wsd"),
        ({"levels": [1.0]}, "levels.0=1"),
        ({"sizes": {"tiny": {"pacing": NO_PACING, "training.stop_at": "1 steps"}}}, "sizes.tiny: training.stop_at=1 steps: "),
        ({"sizes": {"tiny": {"pacing": NO_PACING, "storage": "s3://bucket/runs"}}}, "sizes.tiny: storage=s3://bucket/runs: "),
        ({"seeds": [1, 1]}, "seeds, learning_rates: one is given twice"),
        ({"learning_rates": [0.0]}, "learning_rates.0=0: must be a number above 0"),
        ({"colums": []}, "colums: no such key; did you mean columns?"),
        ({"arms": {}}, "arms: must have at least one"),
        ({"arms": {"a b": {}}, "baseline": "a b"}, "arms.a b: must be a name of letters, digits and ._-"),
        ({"sizes": {"tiny": {"pacing": NO_PACING, "training.duration": "1 hours"}}}, "sizes.tiny: training.duration=1 hours: "),
        ({"sizes": {"tiny": {"base": 1}}}, "sizes.tiny.base: must name the configuration"),
        ({"sizes": {"tiny": {"model.n_layr": 1}}}, "sizes.tiny: model.n_layr: no such key; did you mean model.n_layer?"),
    ],
)
def test_mistakes_of_a_study_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, **changes)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"budget": "half"}, "arms.odd: budget='half': must be "),
        ({"budget": "0% tokens"}, "arms.odd: budget=0% tokens: must be above 0%"),
        ({"rate_of": "nobody"}, "arms.odd.rate_of=nobody: no such arm"),
        ({"against": ["nobody"]}, "arms.odd.against=nobody: no such arm"),
        ({"against": ["odd"]}, "arms.odd.against=odd: is the arm itself"),
        ({"depth": "2"}, "arms.odd: depth='2': must be a share"),
        ({"depth": "1/2", "shares": {"depths": ["1/2", 1]}}, "arms.odd: pacing.depths"),
        ({"rate_of": "half"}, "arms.odd.rate_of=half: that arm takes another's rate"),
        ({"shares": {"lengths": ["1/0", 1]}}, "arms.odd: shares.lengths='1/0': must be a share of the target's from 0 to 1"),
        ({"shares": {"lengths": [2, 1]}}, "arms.odd: shares.lengths=2: must be a share"),
        ({"set": {"training.optimizer.lr": 1}}, "arms.odd: set.training.optimizer.lr: the study sets it itself"),
        ({"set": {"training": {"duration": "1 steps"}}}, "arms.odd: set.training.duration: the study sets it itself"),
        ({"set": {"model.context_length": 16}}, "arms.odd: set.model.context_length: must be alike in all arms"),
        ({"set": {"validation": {"rows": 4}}}, "arms.odd: set.validation.rows: must be alike in all arms"),
        ({"set": {"pacing.rule": "linear"}}, "arms.odd: pacing.lengths=null: pacing.rule=linear needs at least two lengths"),
        ({"set": [1]}, "arms.odd.set: must be a mapping"),
        ({"sets": {}}, "arms.odd: sets: no such key"),
    ],
)
def test_mistakes_of_an_arm_name_it(tmp_path: Path, arm: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, arms={**TREE["arms"], "odd": arm})


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    from raystage.config.study import read_study

    with pytest.raises(ConfigError, match="cannot be read"):
        read_study(tmp_path / "nowhere.yaml", "small")


def test_overrides_reach_arms_and_sizes(tmp_path: Path) -> None:
    from raystage.config.study import read_study

    study = read_study(write_study(tmp_path), "tiny", ["seeds=[7]", "arms.half.budget=25% steps", "sizes.tiny.seed=3"])
    assert study.keys.seeds == (7,)
    assert study.arm("half").keys.budget == "25% steps"
