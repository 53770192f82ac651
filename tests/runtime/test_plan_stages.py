"""How long a stage is expected to last."""

import pytest

from raystage.config import from_tree
from raystage.models.count import matmul_parameters
from raystage.runtime.plan_stages import PlannedStage, planned_stages

DEEPER = ["model.n_layer=4", "pacing.depths=[1, 4]", "pacing.thresholds.depth=-0.3", "training.duration=1e9 tokens"]


def first_stage(*overrides: str) -> PlannedStage:
    """At a threshold that a law of the loss passes at once."""
    return planned_stages(from_tree({}, [*DEEPER, *overrides]))[0]


def test_a_model_is_not_expected_to_grow_before_it_has_seen_its_tokens() -> None:
    default, doubled, none = (
        first_stage(),
        first_stage("pacing.min_tokens_per_parameter=40"),
        first_stage("pacing.min_tokens_per_parameter=0"),
    )
    assert default.tokens == 20 * matmul_parameters(default.spec)
    assert doubled.tokens == 2 * default.tokens
    assert none.tokens == 200 * 8192, "the minimum dwell"


def test_tokens_a_parameter_are_no_matter_to_lengths_nor_to_the_last_call() -> None:
    lengths = ["pacing.depths=null", "pacing.lengths=[128, 256]", "pacing.thresholds.length=-0.3"]
    assert first_stage(*lengths).tokens == 200 * 8192
    late = first_stage("pacing.min_tokens_per_parameter=1e6")
    assert late.latest is not None
    assert late.tokens == pytest.approx(late.latest * 1e9)
