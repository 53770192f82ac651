"""From the configuration to the plan, the controller's policy and the model of each stage."""

import pytest

from raystage.config import from_tree
from raystage.config.sizes import vocab_size_of
from raystage.pacing.schedule import last_calls
from raystage.pacing.stage import Change, Shape
from raystage.training.policy import has_time_for_all, plan_of, policy_of
from raystage.training.stage_model import peak_lr, spec_of

PATHS = ["pacing.lengths=[64, 128, 256]", "pacing.depths=[1, 4]", "pacing.widths=[64, 128]"]


def test_null_lists_stay_at_the_target() -> None:
    plan = plan_of(from_tree({}))
    assert (plan.start, plan.changes) == (Shape(256, 4, 128, 8192), ())


def test_lists_make_a_plan_in_their_order() -> None:
    plan = plan_of(from_tree({}, [*PATHS, "pacing.order=[depth, length, width, length]"]))
    assert plan.start == Shape(64, 1, 64, 8192)
    assert plan.changes == (Change(n_layer=4), Change(seq_len_tokens=128), Change(d_model=128), Change(seq_len_tokens=256))


def test_one_list_alone_leaves_the_others_at_the_target() -> None:
    plan = plan_of(from_tree({}, ["pacing.depths=[2, 4]"]))
    assert (plan.start, plan.changes) == (Shape(256, 2, 128, 8192), (Change(n_layer=4),))


def test_null_dwells_are_steps_worth_of_tokens() -> None:
    policy = policy_of(from_tree({}, ["training.batch_tokens=1024"]))
    assert (policy.settle_tokens, policy.min_dwell_tokens, policy.max_dwell_tokens) == (120 * 1024, 200 * 1024, None)


@pytest.mark.parametrize(("schedule", "end"), [("{kind: wsd, decay_fraction: 0.15}", 0.85), ("{kind: constant}", 1.0)])
def test_changes_by_slope_come_before_the_rate_decays_unless_a_clock_of_their_own_is_set(schedule: str, end: float) -> None:
    overrides = [*PATHS, f"training.schedule={schedule}", "training.duration=1e9 tokens"]
    assert policy_of(from_tree({}, overrides)).last_calls == pytest.approx([end * share for share in (0.9, 0.8, 0.7, 0.6)])
    assert policy_of(from_tree({}, [*overrides, "pacing.max_dwell_tokens=5000000"])).last_calls == ()
    assert policy_of(from_tree({}, [*overrides, "pacing.rule=table", "pacing.at=[0.1, 0.2, 0.3, 0.4]"])).last_calls == ()
    by_rule = policy_of(from_tree({}, [*overrides, "pacing.rule=linear", "pacing.warmup={fraction: 0.3}"]))
    assert len(by_rule.last_calls) == 2


def test_short_runs_leave_more_time_for_a_growth_to_come_to_rest() -> None:
    calls = policy_of(from_tree({}, ["pacing.depths=[1, 4]", "training.duration=2000 steps", "growth.rewarm_steps=300"])).last_calls
    assert calls == pytest.approx([0.8 - (300 + 11 * 10) / 2000])
    hours = policy_of(from_tree({}, ["pacing.depths=[1, 4]", "training.duration=1 hours", "growth.rewarm_steps=300"])).last_calls
    assert hours == pytest.approx([0.8 * 0.9])


def test_last_calls_leave_each_stage_as_long_as_it_has_to_last() -> None:
    overrides = ["pacing.depths=[1, 2, 4]", "training.duration=5000 steps", "training.batch_tokens=1024"]
    calls = policy_of(from_tree({}, [*overrides, "pacing.min_dwell_tokens=1024000"])).last_calls
    assert calls == pytest.approx([0.8 - n * (1000 + 3 * 10) / 5000 for n in (1, 2)])


def test_it_is_known_where_changes_do_not_fit_into_the_time_before_the_decay() -> None:
    overrides = ["pacing.depths=[1, 2, 4, 8]", "model.n_layer=8", "training.duration=5000 steps", "training.batch_tokens=1024"]
    dwells = {1300: True, 1310: False}  # three times these and 30 steps, of 4,000
    for dwell_steps, fits in dwells.items():
        assert has_time_for_all(from_tree({}, [*overrides, f"pacing.min_dwell_tokens={1024 * dwell_steps}"])) == fits
    assert has_time_for_all(from_tree({}, [*overrides, "training.duration=1 hours"]))


def test_many_changes_share_the_time_before_the_decay() -> None:
    calls = last_calls(19, 0.8)
    assert calls == pytest.approx([0.8 * (1 - n / 20) for n in range(1, 20)])


def test_given_values_are_taken_zero_included() -> None:
    policy = policy_of(
        from_tree({}, ["pacing.settle_tokens=0", "pacing.min_dwell_tokens=0", "pacing.max_dwell_tokens=5000", "pacing.check_every_steps=7"])
    )
    assert (policy.settle_tokens, policy.min_dwell_tokens, policy.max_dwell_tokens) == (0, 0, 5000)
    assert (policy.check_every_steps, policy.lag_steps) == (7, 8)


def test_thresholds_by_kind_and_the_rest_of_the_slope_rule() -> None:
    overrides = [
        "pacing.thresholds={length: -0.3, depth: -0.2, width: -0.1, both: -0.05}",
        "pacing.confidence=0.9",
        "pacing.checks_in_a_row=3",
    ]
    policy = policy_of(from_tree({}, [*overrides, "pacing.window_fraction=0.4"]))
    assert policy.thresholds == {"length": -0.3, "depth": -0.2, "width": -0.1, "both": -0.05, "batch": -0.05, "stop": None}
    assert (policy.confidence, policy.checks_in_a_row, policy.window_fraction) == (0.9, 3, 0.4)


def test_a_table() -> None:
    plan = plan_of(from_tree({}, ["pacing.rule=table", "pacing.lengths=[64, 128, 256]", "pacing.at=[0.25, 0.5]"]))
    assert plan.tracks == ((Change(seq_len_tokens=128, at=0.25), Change(seq_len_tokens=256, at=0.5)),)


def test_the_model_of_a_stage_keeps_its_context_and_head_dimension() -> None:
    spec = spec_of(from_tree({}, PATHS), Shape(64, 1, 64, 8192), vocab_size=512, eot_id=0)
    assert (spec.context_length, spec.n_layer, spec.d_model, spec.head_dim, spec.vocab_size) == (256, 1, 64, 32, 512)


def test_the_vocabulary_is_padded_or_as_configured_and_never_too_small() -> None:
    assert [vocab_size_of(from_tree({}), n) for n in (512, 513, 1)] == [512, 576, 64]
    configured = from_tree({}, ["model.vocab_size=5000"])
    assert vocab_size_of(configured, 5000) == 5000
    with pytest.raises(ValueError, match=r"model\.vocab_size=5000: the tokenizer has 5001 entries"):
        vocab_size_of(configured, 5001)


def test_a_free_order_has_a_track_a_kind_and_a_joint_change_one_place() -> None:
    free = plan_of(from_tree({}, [*PATHS, "pacing.batches=[4096, 8192]", "pacing.order=free"]))
    assert [track[0].kind for track in free.tracks] == ["length", "depth", "width", "batch"]
    assert free.heads((1, 0, 1, 0)) == [(0, Change(seq_len_tokens=256)), (1, Change(n_layer=4)), (3, Change(batch_tokens=8192))]
    joint = plan_of(from_tree({}, [*PATHS, "pacing.order=[length, both, length]"]))
    assert [change.kind for change in joint.changes] == ["length", "depth+width", "length"]
    assert joint.shapes()[2] == Shape(128, 4, 128, 8192)


def test_a_rule_for_lengths_has_its_own_track_and_growth_goes_by_slope() -> None:
    overrides = ["pacing.rule=linear", "pacing.lengths=[64, 256]", "pacing.warmup={fraction: 0.5, step_tokens: 64}", "pacing.depths=[2, 4]"]
    lengths, growth = plan_of(from_tree({}, overrides)).tracks
    assert [(change.seq_len_tokens, change.at) for change in lengths] == [(128, 0.5 / 3), (192, 1 / 3), (256, 0.5)]
    assert growth == (Change(n_layer=4),)


def test_the_rate_follows_the_root_of_the_batch_only_if_asked() -> None:
    shape = Shape(256, 4, 128, 2048)
    assert peak_lr(from_tree({}), shape) == 1e-3
    assert peak_lr(from_tree({}, ["training.batch_lr=sqrt"]), shape) == pytest.approx(0.5e-3)
