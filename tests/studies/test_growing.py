"""Growth as a study tells it, on made runs whose answer is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystage.config.study import Study
from raystage.report.digest import digest_of
from raystage.report.run import load_run
from raystage.studies.figure_growth import save_overlays
from raystage.studies.growing import growing_of, overlays_of
from raystage.studies.measured import Measured, measured, seconds_by_shape
from raystage.studies.page import Findings, page_of
from raystage.studies.results import results_of, slopes_at_levels
from raystage.studies.runs import StudyRun
from tests.studies.made_study import NO_PACING, TREE, made_study

BATCH, N_STEPS, GROWN_AT, SPEED = 4096, 2000, 800, 0.8
SMALL, LARGE = 1e5, 4e5  # FLOPs a token


def target_loss(tokens: float) -> float:
    return 3.0 * (tokens / 1e6) ** -0.25 + 1.5


def small_loss(tokens: float) -> float:
    return 2.6 * (tokens / 1e6) ** -0.15 + 2.1


def place_of(loss: float) -> float:
    return float(1e6 * ((loss - 1.5) / 3.0) ** (-1 / 0.25))


def grown_loss(tokens: float) -> float:
    """The small model's law until it grows, then the target's from the same loss on, at SPEED."""
    at = GROWN_AT * BATCH
    return small_loss(tokens) if tokens <= at else target_loss(place_of(small_loss(at)) + SPEED * (tokens - at))


def made(
    folder: Path, loss: Callable[[float], float], depths: Callable[[int], int], lengths: Callable[[int], int] = lambda step: 32
) -> Measured:
    lines: list[dict[str, Any]] = [{"kind": "start", "step": 0, "tokens_seen": 0, "flops": 0, "time_s": 0.0, "world_size": 1}]
    flops, noise = 0.0, np.random.default_rng(0)
    for step in range(1, N_STEPS + 1):
        depth, tokens = depths(step), BATCH * step
        flops += BATCH * (SMALL if depth == 1 else LARGE)
        clocks = {"step": step, "tokens_seen": tokens, "flops": flops, "time_s": 1.0 * step, "stage": 100 * depth + lengths(step)}
        shape = {"seq_len_tokens": lengths(step), "batch_tokens": BATCH, "n_layer": depth, "d_model": 8, "n_parameters": 1000}
        here = loss(tokens) * (1 + 0.001 * noise.standard_normal())
        lines.append({"kind": "train", "world_size": 1, **clocks, **shape, "loss": here, "grad_norm": 1.0, "tokens_per_s": 1.0})
        if step % 20 == 0:
            lines.append({"kind": "val", **clocks, "val_loss": loss(tokens), "stage_end": False})
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(folder, folder.name)
    digest = digest_of(run)
    return measured(run, digest, (), seconds_by_shape([(run, digest, ())]))


def growing_study(folder: Path, **changes: Any) -> Study:
    tiny = {"pacing": NO_PACING, "training.schedule.kind": "constant", "growth.rewarm_steps": 50, "training.batch_tokens": BATCH}
    return made_study(folder, sizes={"tiny": tiny}, **{"reference": "curve", "seeds": [1], "learning_rates": [1.0], **changes})


def test_learning_after_growth_and_the_growth_point(tmp_path: Path) -> None:
    study = growing_study(tmp_path)
    static, depth = StudyRun("static", 1.0, 1), StudyRun("depth", 1.0, 1)
    runs = {
        static: made(tmp_path / "static", target_loss, lambda step: 4),
        depth: made(tmp_path / "depth", grown_loss, lambda step: 1 if step <= GROWN_AT else 4),
    }
    losses = {run: each.final_loss for run, each in runs.items()}
    overlays = overlays_of(study, losses, runs)
    _, row = growing_of(study, losses, runs, overlays)
    assert row.arm == "depth"
    assert row.ratio is not None
    assert row.ratio.mean == pytest.approx(SPEED, rel=0.05)
    (overlay,) = overlays["depth"]
    middle = len(overlay.curve.x) // 3
    assert target_loss(float(overlay.curve.x[middle])) == pytest.approx(float(overlay.curve.losses[middle]), rel=0.02)

    assert not row.troubles
    assert row.rho is not None
    assert row.share is not None
    # where both laws fall equally fast per compute, found on a grid
    tokens = np.linspace(1e5, GROWN_AT * BATCH, 20_000)
    small_price = SMALL / -np.gradient(small_loss_of(tokens), tokens)
    large_tokens = np.array([place_of(loss) for loss in small_loss_of(tokens)])
    large_price = LARGE / (0.25 * 3.0 / 1e6 * (large_tokens / 1e6) ** -1.25)
    best = int(np.flatnonzero(small_price >= large_price)[0])
    assert row.share.mean == pytest.approx(tokens[best] / (GROWN_AT * BATCH), rel=0.1)
    assert row.rho.mean == pytest.approx(large_tokens[best] / tokens[best], rel=0.1)

    at = GROWN_AT * BATCH
    assert row.measured is not None
    assert row.threshold is not None
    until_middle = (50 + N_STEPS / 8) * BATCH  # of the window, by which the slower one has lost more
    assert row.measured.mean == pytest.approx((place_of(small_loss(at)) - (1 - SPEED) * until_middle) / at, rel=0.05)
    assert row.default == pytest.approx(0.70**2)

    save_overlays(study, losses, runs, overlays, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    page = page_of(study, Findings([], 0, "", growing=[row]), "")
    assert f"| depth | {row.ratio.mean:.2f} | {row.threshold.mean:.3f} | {row.share.mean:.0%} | {row.measured.mean:.2f} |" in page
    assert f" {row.rho.mean:.2f} | 0.49 |" in page


def test_what_is_saved_is_read_on_the_grown_model_alone(tmp_path: Path) -> None:
    """The small model passes the lower level by itself, far cheaper: that is no saving by growth."""
    study = growing_study(tmp_path)
    static, depth = StudyRun("static", 1.0, 1), StudyRun("depth", 1.0, 1)
    small_until, settled = 1600, 1600 + 50
    runs = {
        static: made(tmp_path / "static", target_loss, lambda step: 4),
        depth: made(tmp_path / "depth", lambda tokens: target_loss(1.5 * tokens), lambda step: 1 if step <= small_until else 4),
    }
    losses = {run: each.final_loss for run, each in runs.items()}
    _, result = results_of(study, losses, runs)[1:]
    flops = BATCH * (small_until * SMALL + (settled - small_until) * LARGE)
    whole = BATCH * N_STEPS * LARGE
    (low, high) = result.saved
    assert (low.level, low.bound, low.n_beyond) == (0.5, "at least", 1)
    assert low.spread.mean == pytest.approx(1 - flops / (0.5 * whole), abs=0.02)
    assert (high.level, high.bound) == (0.9, "at least")
    assert high.spread.mean == pytest.approx(1 - flops / (0.9 * whole), abs=0.02)
    slopes = slopes_at_levels(study, losses, runs)
    assert slopes[0.5].mean == pytest.approx(-0.25 * (1 - 1.5 / target_loss(N_STEPS * BATCH / 2)), rel=0.03)


def test_an_arm_of_another_budget_is_compared_where_it_ends(tmp_path: Path) -> None:
    study = growing_study(tmp_path)
    runs = {
        StudyRun("static", 1.0, 1): made(tmp_path / "static", target_loss, lambda step: 4),
        StudyRun("half", 1.0, 1): made(tmp_path / "half", lambda tokens: target_loss(0.8 * tokens), lambda step: 4),
    }
    own_end, *_levels = results_of(study, {run: each.final_loss for run, each in runs.items()}, runs)[1].saved
    assert (own_end.level, own_end.bound) == (None, "")
    assert own_end.spread.mean == pytest.approx(1 - 1 / 0.8, abs=0.02)


@pytest.mark.parametrize("budget", ["100% tokens", "100% flops"])
def test_of_an_arm_of_the_baselines_budget_the_levels_say_it_all(tmp_path: Path, budget: str) -> None:
    study = growing_study(tmp_path, arms={**TREE["arms"], "half": {"budget": budget, "rate_of": "static"}})
    runs = {StudyRun(arm, 1.0, 1): made(tmp_path / arm, target_loss, lambda step: 4) for arm in ("static", "half")}
    saved = results_of(study, {run: each.final_loss for run, each in runs.items()}, runs)[1].saved
    assert [each.level for each in saved] == [0.5, 0.9]


def test_nothing_is_saved_where_a_seed_diverged(tmp_path: Path) -> None:
    study = growing_study(tmp_path, seeds=[1, 2])
    runs = {
        StudyRun(arm, 1.0, seed): made(tmp_path / f"{arm}-{seed}", target_loss, lambda step: 4)
        for arm in ("static", "half")
        for seed in (1, 2)
    }
    losses: dict[StudyRun, float | None] = {run: each.final_loss for run, each in runs.items()}
    assert results_of(study, losses, runs)[1].saved
    assert results_of(study, losses | {StudyRun("half", 1.0, 2): None}, runs)[1].saved == ()


def test_seeds_of_the_baseline_over_each_other_tell_what_noise_alone_does(tmp_path: Path) -> None:
    study = growing_study(tmp_path, seeds=[1, 2])
    slower = [made(tmp_path / "one", target_loss, lambda step: 4), made(tmp_path / "two", lambda t: target_loss(0.9 * t), lambda step: 4)]
    grown = [made(tmp_path / f"grown-{n}", grown_loss, lambda step: 1 if step <= GROWN_AT else 4) for n in (1, 2)]
    runs = {StudyRun(arm, 1.0, seed): run for arm, found in (("static", slower), ("depth", grown)) for seed, run in enumerate(found, 1)}
    losses = {run: each.final_loss for run, each in runs.items()}
    noise, _ = growing_of(study, losses, runs, overlays_of(study, losses, runs))
    assert (noise.arm, noise.n_seeds) == ("static", 2)
    assert noise.ratio is not None
    assert sorted(noise.ratio.values) == [pytest.approx(0.9, rel=0.05), pytest.approx(1 / 0.9, rel=0.05)]


def small_loss_of(tokens: np.ndarray) -> np.ndarray:
    return 2.6 * (tokens / 1e6) ** -0.15 + 2.1


def test_curves_that_tell_no_growth_point_say_why(tmp_path: Path) -> None:
    study = growing_study(tmp_path)
    static, depth = StudyRun("static", 1.0, 1), StudyRun("depth", 1.0, 1)
    runs = {
        static: made(tmp_path / "static", target_loss, lambda step: 4),
        depth: made(tmp_path / "depth", grown_loss, lambda step: 1 if step <= 20 else 4),
    }
    losses = {run: each.final_loss for run, each in runs.items()}
    _, row = growing_of(study, losses, runs, overlays_of(study, losses, runs))
    assert row.rho is None
    assert "the small curve has 20 points" in row.troubles[0]
    assert f"- depth: {row.troubles[0]}." in page_of(study, Findings([], 0, "", growing=[row]), "")


def test_a_growth_that_was_rolled_back_is_not_the_one_that_counts(tmp_path: Path) -> None:
    study = growing_study(tmp_path)
    static, depth = StudyRun("static", 1.0, 1), StudyRun("depth", 1.0, 1)
    runs = {
        static: made(tmp_path / "static", target_loss, lambda step: 4),
        depth: made(tmp_path / "depth", grown_loss, lambda step: 4 if 500 < step <= 600 or step > GROWN_AT else 1),
    }
    losses = {run: each.final_loss for run, each in runs.items()}
    _, row = growing_of(study, losses, runs, overlays_of(study, losses, runs))
    assert row.ratio is not None
    assert row.ratio.mean == pytest.approx(SPEED, rel=0.05)


def test_a_small_model_whose_length_changed_has_no_one_law(tmp_path: Path) -> None:
    study = growing_study(tmp_path)
    static, depth = StudyRun("static", 1.0, 1), StudyRun("depth", 1.0, 1)
    runs = {
        static: made(tmp_path / "static", target_loss, lambda step: 4),
        depth: made(tmp_path / "depth", grown_loss, lambda step: 1 if step <= GROWN_AT else 4, lambda step: 16 if step < 100 else 32),
    }
    losses = {run: each.final_loss for run, each in runs.items()}
    _, row = growing_of(study, losses, runs, overlays_of(study, losses, runs))
    assert "changed its sequence length" in row.troubles[0]


def test_a_rate_that_decays_is_not_asked(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    assert overlays_of(study, {}, {}) == {}
