"""Counters: steps add up, growth puts the clocks back by rho, progress in every unit."""

import dataclasses

import pytest

from raystage.config.duration import Duration, parse_duration
from raystage.config.schema import Growth
from raystage.data.place import Place
from raystage.data.step_cut import cut
from raystage.pacing.stage import Change, Shape
from raystage.training.counters import Counters

BEFORE = Shape(128, 2, 64, 8192)
GROWTH = Growth(rho_depth=0.7, rho_width=0.55)


def test_steps_add_up() -> None:
    first = cut(Place(), 5, 16, 32, "truncate")
    second = cut(first.place_after, 5, 16, 32, "truncate")
    counters = Counters().after_step(first, 1e6).after_step(second, 2e6)
    assert counters == Counters(2, 160, Place(cursor=320, tokens_dropped=160), 3e6, effective_tokens=160.0)


@pytest.mark.parametrize(
    ("change", "rho"),
    [
        (Change(n_layer=4), 0.7),
        (Change(n_layer=6), 0.56818),  # 0.7 ** log2(3)
        (Change(n_layer=8), 0.49),
        (Change(d_model=128), 0.55),
        (Change(d_model=192), 0.38770),  # 0.55 ** log2(3)
        (Change(d_model=256), 0.3025),
        (Change(n_layer=4, d_model=128), 0.40),
        (Change(n_layer=8, d_model=128), 0.28),  # both once, then depth once more
    ],
)
def test_growth_puts_the_effective_tokens_back_by_rho_a_doubling(change: Change, rho: float) -> None:
    counters = Counters(step=40, tokens_seen=1000, effective_tokens=1000.0, flops=5.0)
    grown = counters.after_growth(change, BEFORE, GROWTH, progress=0.5)
    assert grown.effective_tokens == pytest.approx(1000 * rho, rel=1e-4)
    assert grown.lr_shift == pytest.approx(0.5 * (1 - rho), rel=1e-4)
    assert grown.grown_at_step == 40
    # what was really spent is not moved back
    assert (grown.tokens_seen, grown.step, grown.flops) == (1000, 40, 5.0)


def test_two_doublings_are_one_factor_of_four() -> None:
    counters = Counters(step=40, tokens_seen=1000, effective_tokens=1000.0)
    twice = counters.after_growth(Change(n_layer=4), BEFORE, GROWTH, 0.5)
    twice = twice.after_growth(Change(n_layer=8), dataclasses.replace(BEFORE, n_layer=4), GROWTH, 0.5)
    once = counters.after_growth(Change(n_layer=8), BEFORE, GROWTH, 0.5)
    assert twice.effective_tokens == pytest.approx(once.effective_tokens)
    assert twice.lr_shift == pytest.approx(once.lr_shift)


def test_a_rho_of_one_moves_nothing() -> None:
    counters = Counters(step=40, tokens_seen=1000, effective_tokens=1000.0)
    grown = counters.after_growth(Change(d_model=128), BEFORE, Growth(rho_width=1.0), 0.5)
    assert grown == dataclasses.replace(counters, grown_at_step=40)


def test_after_growth_the_effective_clock_runs_on() -> None:
    grown = Counters(step=40, tokens_seen=1000, effective_tokens=1000.0).after_growth(Change(n_layer=4), BEFORE, GROWTH, 0.5)
    later = grown.after_step(cut(Place(), 5, 20, 20, "segment"), 1.0)
    assert (later.effective_tokens, later.tokens_seen, later.grown_at_step) == (pytest.approx(800.0), 1100, 40)


@pytest.mark.parametrize(
    ("duration", "progress"),
    [("100 steps", 0.4), ("4000 tokens", 0.25), ("2e6 flops", 0.5), ("1 hours", 0.75), ("20 steps", 2.0)],
)
def test_progress_in_each_unit(duration: str, progress: float) -> None:
    counters = Counters(step=40, tokens_seen=1000, flops=1e6, elapsed_s=2700.0)
    assert counters.progress(parse_duration(duration)) == pytest.approx(progress)


def test_a_run_of_one_step_is_over_after_it() -> None:
    assert Counters().progress(Duration(1, "steps")) == 0.0
    assert Counters().after_step(cut(Place(), 1, 8, 8, "segment"), 1.0).progress(Duration(1, "steps")) == 1.0


def test_json_gives_the_same_counters() -> None:
    counters = Counters(step=3, tokens_seen=7, effective_tokens=4.9, lr_shift=0.1, grown_at_step=2)
    assert Counters.from_json(dataclasses.asdict(counters)) == counters


def test_a_rollback_takes_back_what_belongs_to_the_parameters_and_nothing_that_was_spent() -> None:
    saved = Counters(step=40, tokens_seen=1000, effective_tokens=700.0, lr_shift=0.1, grown_at_step=30, flops=5.0)
    now = Counters(step=60, tokens_seen=1500, effective_tokens=600.0, lr_shift=0.2, grown_at_step=55, flops=9.0, place=Place(cursor=1500))
    saved = dataclasses.replace(saved, place=Place(cursor=1000))
    after = now.after_rollback(saved, context_length=10)
    assert (after.step, after.tokens_seen, after.flops, after.place) == (60, 1500, 9.0, Place(cursor=1500, tokens_skipped=500))
    assert (after.effective_tokens, after.lr_shift, after.grown_at_step) == (700.0, 0.1, 50), "ten steps into the warmup, as it was"
    assert (after.tokens_undone, after.n_rollbacks) == (500, 1)
    further_back = dataclasses.replace(after, step=70, tokens_seen=1600).after_rollback(Counters(tokens_seen=800), 10)
    assert further_back.tokens_undone == 800, "what two rollbacks undo counts once"


@pytest.mark.parametrize("unit", ["steps", "tokens", "flops", "hours"])
def test_a_stop_leaves_the_decay_and_nothing_else(unit: str) -> None:
    duration = Duration(1000.0, unit)  # type: ignore[arg-type]
    counters = Counters(step=400, tokens_seen=400, flops=400.0, elapsed_s=400 * 3600)
    stopped = counters.after_stop(duration, decay_fraction=0.2)
    assert stopped.progress(duration) == pytest.approx(0.8)
    assert counters.after_stop(duration, decay_fraction=0.0).progress(duration) == pytest.approx(1.0)
    late = dataclasses.replace(counters, step=900, tokens_seen=900, flops=900.0, elapsed_s=900 * 3600)
    assert late.after_stop(duration, 0.2).duration_share == 1.0, "in its decay a run ends as planned"


def test_under_another_duration_growth_has_put_the_schedule_back_by_as_many_steps() -> None:
    """Grown at half of 100 steps, to where 35 would be; at 60 of them the duration becomes 300, then a number of tokens."""
    before, longer, tokens = (parse_duration(text) for text in ("100 steps", "300 steps", "12000 tokens"))
    grown = Counters(step=50, tokens_seen=1000).after_growth(Change(n_layer=4), BEFORE, GROWTH, 0.5)
    at_60 = dataclasses.replace(grown, step=60, tokens_seen=1200)
    assert at_60.under(before, before) == at_60
    assert at_60.progress(before) - at_60.lr_shift == pytest.approx(0.45)
    for now, share in ((longer, 0.45 / 3), (tokens, 0.1 * 0.45 / 0.6)):
        moved = at_60.under(before, now)
        assert moved.progress(now) - moved.lr_shift == pytest.approx(share)


def test_a_new_duration_overrules_an_early_end_by_slope() -> None:
    before, longer = parse_duration("100 steps"), parse_duration("150 steps")
    stopped = Counters(step=50).after_stop(before, decay_fraction=0.2)
    assert stopped.duration_share == 0.625
    assert stopped.under(before, before).progress(before) == pytest.approx(0.8)
    assert stopped.under(before, longer).progress(longer) == pytest.approx(50 / 150)
    assert Counters().under(before, longer) == Counters()
