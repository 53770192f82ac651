import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from raystage.report.curves import broken, peak_positions, raw, running_means
from raystage.report.digest import digest_of
from raystage.report.drawing import draw
from raystage.report.marks import spread
from raystage.report.panels import panels_of
from raystage.report.run import Run, load_run
from raystage.report.stability import loss_ratios
from raystage.report.stages import stages_of, total
from raystage.report.throughput import scaling_of
from raystage.tracking import units
from raystage.tracking.decision_text import label
from tests.made_run import STAGES, MadeStage, made_records, write_lines, write_made_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return loaded(write_made_run(tmp_path_factory.mktemp("runs") / "run"))


def loaded(folder: Path) -> Run:
    return load_run(folder, folder.name)


def test_stages_add_up_to_the_run(run: Run) -> None:
    stages = stages_of(run)
    assert [stage.last_step - stage.first_step + 1 for stage in stages] == [stage.steps for stage in STAGES]
    for clock in ("tokens_seen", "flops", "time_s"):
        assert total(stages, clock).value == pytest.approx(run.train[clock][-1], rel=1e-12)


def test_stages_know_their_end(run: Run) -> None:
    stages = stages_of(run)
    assert [stage.ended_by and stage.ended_by["kind"] for stage in stages] == [
        "raise_seq_len",
        "raise_seq_len",
        "grow_depth",
        "grow_width",
        None,
    ]
    ends = run.val["val_loss"][run.val["stage_end"] == 1].tolist()
    assert [stage.val_loss and stage.val_loss.value for stage in stages] == ends


def test_growth_of_both_at_once_ends_a_stage_and_is_named(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run", (STAGES[0], MadeStage(32, 4, 128, 90)))
    (first, _) = stages_of(loaded(folder))
    assert first.ended_by is not None
    assert (first.ended_by["kind"], label(first.ended_by)) == ("grow_both", "depth 2→4 width 64→128")


def test_a_stage_does_not_take_its_neighbours_decision(run: Run) -> None:
    applied_at = [stage.ended_by["effective_step"] for stage in stages_of(run) if stage.ended_by]
    assert applied_at == [121, 231, 361, 501]


def test_a_refused_decision_ends_no_stage(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run")
    _, decisions = made_records()
    refused = [{**decision, "decision_id": 100 + i, "outcome": "refused"} for i, decision in enumerate(decisions)]
    write_lines(folder / "decisions.jsonl", [*decisions, *refused])
    ends = [stage.ended_by and stage.ended_by["decision_id"] for stage in stages_of(loaded(folder))]
    assert ends == [1, 2, 3, 4, None]


def test_a_stage_that_a_refused_decision_ended_is_not_ended_by_the_one_that_began_it(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run")
    _, decisions = made_records()
    write_lines(folder / "decisions.jsonl", [{**d, "outcome": "refused"} if d["decision_id"] == 2 else d for d in decisions])
    ends = [stage.ended_by and stage.ended_by["decision_id"] for stage in stages_of(loaded(folder))]
    assert ends == [1, None, 3, 4, None]


def test_a_run_that_began_from_anothers_state_is_charged_its_own_tokens_alone(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run")
    metrics, _ = made_records()
    moved = [{**r, "tokens_seen": r["tokens_seen"] + 10**9, "flops": r["flops"] + 1e15} if r["kind"] == "train" else r for r in metrics]
    write_lines(folder / "metrics.jsonl", moved)
    stages = stages_of(loaded(folder))
    assert total(stages, "tokens_seen").value == 700 * 2048
    assert total(stages, "flops").value == pytest.approx(4.68e12, rel=0.01)


def test_share_of_the_static_target(run: Run) -> None:
    facts = digest_of(run).facts
    final = STAGES[-1]
    a_token = 6.0 * final.n_parameters + 12 * final.n_layer * final.seq_len_tokens * final.d_model
    assert facts.static_flops.value == pytest.approx(a_token * 700 * 2048)
    assert facts.share_of_static.value == pytest.approx((facts.flops.value or 0) / (a_token * 700 * 2048))
    assert facts.perplexity.value == pytest.approx(np.exp(run.val["val_loss"][-1]))


def test_loss_ratio_is_over_the_smallest_before() -> None:
    ratios = loss_ratios(np.array([4.0, 2.0, np.nan, 3.0, 1.0, 1.3]))
    assert str(np.round(ratios, 6).tolist()) == "[nan, 0.5, nan, 1.5, 0.5, 1.3]"
    assert len(loss_ratios(np.empty(0))) == 0


def test_unstable_and_not_finite_steps_are_counted_and_the_worst_is_named(tmp_path: Path) -> None:
    folder = write_made_run(tmp_path / "run", (MadeStage(32, 1, 64, 20),))
    metrics, _ = made_records((MadeStage(32, 1, 64, 20),))
    spoiled = {5: 20.0, 9: None, 12: 30.0}
    write_lines(
        folder / "metrics.jsonl", [{**r, "loss": spoiled.get(r["step"], r.get("loss"))} if r["kind"] == "train" else r for r in metrics]
    )
    facts = digest_of(loaded(folder)).facts
    assert (facts.n_unstable.value, facts.n_not_finite.value) == (2, 1)
    best = min(record["loss"] for record in metrics if record["kind"] == "train" and record["step"] < 12)
    assert facts.worst_loss_ratio.value == pytest.approx(30.0 / best)
    assert facts.worst_loss_ratio.steps == (12,)


def test_throughput_by_shape_and_workers(tmp_path: Path) -> None:
    stages = (MadeStage(32, 2, 64, 30, workers=1),)
    folder = write_made_run(tmp_path / "run", stages)
    metrics, _ = made_records(stages)
    for step, workers, speed in [(31 + i, 2, 100.0 + i) for i in range(3)] + [(34 + i, 4, 180.0) for i in range(4)]:
        last = {**next(r for r in reversed(metrics) if r["kind"] == "train"), "step": step, "stage": 1, "seq_len_tokens": 64}
        metrics.append({**last, "tokens_seen": 2048 * step, "flops": 1e9 * step, "world_size": workers, "tokens_per_s": speed})
    write_lines(folder / "metrics.jsonl", metrics)
    digest = digest_of(loaded(folder))
    assert [(change.step, change.before, change.after) for change in digest.worker_changes] == [(31, 1, 2), (34, 2, 4)]
    rows = scaling_of(digest.throughputs)
    assert [(row.throughput.shape, row.throughput.workers, row.throughput.n_steps) for row in rows] == [
        ("len 64 · 2 layers x 64", 2, 3),
        ("len 64 · 2 layers x 64", 4, 4),
    ]
    assert (rows[0].throughput.tokens_per_s.value, rows[0].ratio) == (101.0, None)
    assert (rows[1].ratio, rows[1].efficiency) == (pytest.approx(180 / 101), pytest.approx(90 / 101))
    assert scaling_of(digest.throughputs[:1]) == []


def test_thinned_curve_keeps_its_spikes() -> None:
    y = np.sin(np.arange(100_000.0))
    y[77_777], y[55_555] = 50.0, -50.0
    curve = raw(np.arange(100_000.0), y)
    assert len(curve.x) <= 800
    assert (curve.y.max(), curve.y.min()) == (50.0, -50.0)
    assert (np.diff(curve.x) > 0).all()
    assert (curve.x[0], curve.x[-1]) == (0, 99_999), "both ends are drawn, whatever their bin"


def test_short_curve_is_left_alone() -> None:
    x = np.arange(800.0)
    assert (raw(x, x).y == x).all()


def test_thinning_with_nothing_known() -> None:
    curve = raw(np.arange(5000.0), np.full(5000, np.nan))
    assert len(curve.x) <= 800


def test_smoothing_never_crosses_a_stage() -> None:
    stage = np.repeat([0.0, 1.0], 500)
    positions, means = running_means(np.where(stage == 0, 5.0, 3.0), stage)
    assert set(np.round(means[~np.isnan(means)], 9)) == {5.0, 3.0}
    assert np.isnan(means[np.searchsorted(positions, 499, side="right") - 1])


def test_smoothing_keeps_a_line_and_its_ends_and_lowers_noise() -> None:
    positions, means = running_means(2 * np.arange(1000.0), np.zeros(1000))
    known = ~np.isnan(means)
    assert means[known] == pytest.approx(2 * positions[known])
    assert (positions[0], positions[-1]) == (0, 999)
    _, means = running_means(np.random.default_rng(0).normal(size=1000), np.zeros(1000))
    assert np.nanstd(means) < 0.3


def test_smoothed_long_curve_is_small_and_skips_unknown_values() -> None:
    y = np.ones(300_000)
    y[1::7] = np.nan
    positions, means = running_means(y, np.repeat([0.0, 1.0, 2.0], 100_000))
    assert len(positions) <= 810
    assert np.isnan(means).sum() == 3


def test_a_line_is_broken_between_stages() -> None:
    positions, gaps = broken(np.array([0, 2, 3]), np.array([0.0, 0, 0, 1]))
    assert (positions.tolist(), gaps.tolist()) == ([0, 2, 3, 3], [False, False, True, False])


def test_peaks_are_the_largest_of_each_bin() -> None:
    y = np.array([1.0, 5, 2, np.nan, np.nan, np.nan, 7, 8, 3])
    assert peak_positions(y, 3).tolist() == [1, 7]
    assert peak_positions(y[:2], 60).tolist() == [0, 1]
    assert peak_positions(np.empty(0), 60).tolist() == []


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


def test_a_panel_marks_no_decisions_of_a_run_that_it_does_not_show(tmp_path: Path) -> None:
    """A run on a device whose peak is not known has no MFU, beside one that has."""
    run_dirs = [write_made_run(tmp_path / name) for name in ("gpu", "cpu")]
    records = [json.loads(line) | {"mfu": 0.4} for line in (run_dirs[0] / "metrics.jsonl").read_text().splitlines()]
    write_lines(run_dirs[0] / "metrics.jsonl", records)
    runs = [digest_of(loaded(run_dir)) for run_dir in run_dirs]
    drawn = {panel.id: draw(Figure().subplots(), panel, runs) for panel in panels_of(runs) if panel.id in ("mfu", "gradient")}
    assert {each.run for each in drawn["gradient"] if each.name == "decisions"} == {0, 1}
    assert [(each.run, each.name) for each in drawn["mfu"]] == [(0, "mean_mfu"), (0, "decisions")]
