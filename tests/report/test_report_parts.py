from pathlib import Path

import numpy as np
import pytest

from raystage.report.curves import by_stage, raw, smoothed
from raystage.report.facts import facts_of
from raystage.report.marks import spread
from raystage.report.run import load_runs
from raystage.report.stages import stages_of, total
from raystage.tracking import units
from raystage.tracking.decision_text import label
from raystage.tracking.records import RunRecords
from tests.made_run import STAGES, MadeStage, made_records, write_lines, write_made_run


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> RunRecords:
    return RunRecords.load(write_made_run(tmp_path_factory.mktemp("runs") / "run"))


def test_stages_add_up_to_the_run(records: RunRecords) -> None:
    stages, last = stages_of(records), records.train[-1]
    assert [stage.last_step - stage.first_step + 1 for stage in stages] == [stage.steps for stage in STAGES]
    spent = total(stages)
    assert (spent.tokens, spent.time_s) == pytest.approx((last["tokens_seen"], last["time_s"]))
    assert spent.flops == pytest.approx(last["flops"], rel=1e-12)


def test_stages_know_their_end(records: RunRecords) -> None:
    stages = stages_of(records)
    assert [stage.ended_by and stage.ended_by["kind"] for stage in stages] == [
        "raise_seq_len",
        "raise_seq_len",
        "grow_depth",
        "grow_width",
        None,
    ]
    ends = [record["val_loss"] for record in records.val if record["stage_end"]]
    assert [stage.val_loss for stage in stages] == ends


def test_growth_of_both_at_once_ends_a_stage_and_is_named(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run", (STAGES[0], MadeStage(32, 4, 128, 90)))
    (first, _) = stages_of(RunRecords.load(folder))
    assert first.ended_by is not None
    assert (first.ended_by["kind"], label(first.ended_by)) == ("grow_both", "depth 2→4 width 64→128")


def test_a_stage_does_not_take_its_neighbours_decision(records: RunRecords) -> None:
    applied_at = [stage.ended_by["effective_step"] for stage in stages_of(records) if stage.ended_by]
    assert applied_at == [121, 231, 361, 501]


def test_a_refused_decision_ends_no_stage(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run")
    _, decisions = made_records()
    refused = [{**decision, "decision_id": 100 + i, "outcome": "refused"} for i, decision in enumerate(decisions)]
    write_lines(folder / "decisions.jsonl", [*decisions, *refused])
    ends = [stage.ended_by and stage.ended_by["decision_id"] for stage in stages_of(RunRecords.load(folder))]
    assert ends == [1, 2, 3, 4, None]


def test_a_stage_that_a_refused_decision_ended_is_not_ended_by_the_one_that_began_it(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run")
    _, decisions = made_records()
    write_lines(folder / "decisions.jsonl", [{**d, "outcome": "refused"} if d["decision_id"] == 2 else d for d in decisions])
    ends = [stage.ended_by and stage.ended_by["decision_id"] for stage in stages_of(RunRecords.load(folder))]
    assert ends == [1, None, 3, 4, None]


def test_a_run_that_began_from_anothers_state_is_charged_its_own_tokens_alone(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run")
    metrics, _ = made_records()
    moved = [{**r, "tokens_seen": r["tokens_seen"] + 10**9, "flops": r["flops"] + 1e15} if r["kind"] == "train" else r for r in metrics]
    write_lines(folder / "metrics.jsonl", moved)
    spent = total(stages_of(RunRecords.load(folder)))
    assert spent.tokens == 700 * 2048
    assert spent.flops == pytest.approx(4.68e12, rel=0.01)


def test_share_of_the_static_target(tmp_path: Path) -> None:
    (run,) = load_runs([write_made_run(tmp_path / "run")])
    facts = facts_of(run, stages_of(run.records))
    final = STAGES[-1]
    a_token = 6.0 * final.n_parameters + 12 * final.n_layer * final.seq_len_tokens * final.d_model
    assert facts.static_flops == pytest.approx(a_token * 700 * 2048)
    assert facts.share_of_static == pytest.approx(facts.flops / facts.static_flops)
    assert facts.perplexity == pytest.approx(np.exp(run.records.val[-1]["val_loss"]))


def test_thinned_curve_keeps_its_spikes() -> None:
    y = np.sin(np.arange(100_000.0))
    y[77_777], y[55_555] = 50.0, -50.0
    curve = raw(np.arange(100_000.0), y)
    assert len(curve.x) <= 2000
    assert (curve.y.max(), curve.y.min()) == (50.0, -50.0)
    assert (np.diff(curve.x) > 0).all()


def test_short_curve_is_left_alone() -> None:
    x = np.arange(2000.0)
    assert (raw(x, x).y == x).all()


def test_thinning_with_nothing_known() -> None:
    curve = raw(np.arange(5000.0), np.full(5000, np.nan))
    assert len(curve.x) <= 2000


def test_smoothing_never_crosses_a_stage() -> None:
    stage = np.repeat([0.0, 1.0], 500)
    curve = smoothed(np.arange(1000.0), np.where(stage == 0, 5.0, 3.0), stage)
    known = curve.y[~np.isnan(curve.y)]
    assert set(np.round(known, 9)) == {5.0, 3.0}
    assert np.isnan(curve.y[np.searchsorted(curve.x, 499, side="right") - 1])


def test_smoothing_keeps_a_line_and_its_ends_and_lowers_noise() -> None:
    x = np.arange(1000.0)
    line = smoothed(x, 2 * x, np.zeros(1000))
    known = ~np.isnan(line.y)
    assert line.y[known] == pytest.approx(2 * line.x[known])
    noisy = smoothed(x, np.random.default_rng(0).normal(size=1000), np.zeros(1000))
    assert np.nanstd(noisy.y) < 0.3


def test_smoothed_long_curve_is_small_and_skips_unknown_values() -> None:
    y = np.ones(300_000)
    y[1::7] = np.nan
    curve = smoothed(np.arange(300_000.0), y, np.repeat([0.0, 1.0, 2.0], 100_000))
    assert len(curve.x) <= 2010
    assert np.isnan(curve.y).sum() == 3


def test_by_stage_breaks_the_line() -> None:
    curve = by_stage(np.array([1.0, 2, 3]), np.array([7.0, 8, 9]), np.array([0.0, 0, 1]))
    assert str(curve.y.tolist()) == "[7.0, 8.0, nan, 9.0]"


def test_spread_labels_keep_their_distance_and_order() -> None:
    placed = spread([0.10, 0.11, 0.5, 0.99, 0.98], 0.05)
    assert placed[:3] == pytest.approx([0.10, 0.15, 0.5])
    assert placed[3] == pytest.approx(1.0)
    assert placed[4] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.6, "1k"), (12_345, "12.3k"), (999_999, "1M"), (1.25e6, "1.25M"), (12.6e9, "12.6B"), (5e15, "5000T")],
)
def test_count(value: float, text: str) -> None:
    assert units.count(value) == text


def test_flops_and_duration() -> None:
    assert [units.flops(3.12e14), units.flops(0)] == ["3.12e14", "0.00e0"]
    assert [units.duration(s) for s in (42, 59.7, 303, 7500, 100_000)] == ["42 s", "1 min 00 s", "5 min 03 s", "2 h 05 min", "1 d 03 h"]
