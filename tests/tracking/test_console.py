import io

import pytest
from rich.console import Console as Terminal

from raystage.config.duration import Duration, parse_duration
from raystage.tracking.console import Console
from raystage.tracking.console import Terminal as OwnTerminal
from raystage.tracking.panel import panel, sparkline
from raystage.tracking.plain_lines import progress_line
from raystage.tracking.progress import Progress, advance, decided, nearness, share_done, time_left_s
from tests.made_run import made_records

METRICS, DECISIONS = made_records()
BUDGET = Duration(2e6, "tokens")


def progress_at(step: int) -> Progress:
    progress = Progress()
    for record in METRICS:
        if record["step"] <= step:
            progress = advance(progress, record)
    for decision in DECISIONS:
        if decision["effective_step"] <= step:
            progress = decided(progress, decision)
    return progress


def drawn(progress: Progress, columns: int) -> str:
    out = io.StringIO()
    Terminal(file=out, width=columns, force_terminal=True, color_system=None).print(panel(progress, BUDGET, "quick[start]"))
    return out.getvalue()


def plain_console(**more: float) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(BUDGET, "run", Terminal(file=out, width=60, highlight=False), **more), out


@pytest.mark.parametrize(("text", "share"), [("1400 steps", 0.25), ("1433600 tokens", 0.5), ("1e30 flops", 0.0), ("100 hours", 0.0)])
def test_share_done_in_every_unit(text: str, share: float) -> None:
    assert share_done(progress_at(350), parse_duration(text)) == pytest.approx(share, abs=1e-3)


def test_time_left_follows_the_present_stage() -> None:
    newest = progress_at(600).newest
    assert newest is not None
    step_s = 0.05 + 2e-7 * newest["n_parameters"]
    assert time_left_s(progress_at(600), Duration(700, "steps")) == pytest.approx(100 * step_s, rel=0.01)
    assert time_left_s(progress_at(600), Duration(newest["time_s"] / 3600 + 0.5, "hours")) == pytest.approx(1800, rel=1e-6)
    assert time_left_s(progress_at(0), BUDGET) is None
    assert time_left_s(progress_at(501), BUDGET) is None
    assert time_left_s(progress_at(700), Duration(500, "steps")) == 0.0


def test_nearness_reaches_one_at_the_threshold() -> None:
    assert nearness({"slope_bound": -0.2, "threshold": -0.1}) == 0.5
    assert nearness({"slope_bound": -0.1, "threshold": -0.1}) == nearness({"slope_bound": 0.3, "threshold": -0.1}) == 1.0
    assert nearness({"slope_bound": None, "threshold": -0.1}) == 0.0


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("step", [0, 1, 120, 330, 700])
def test_panel_fits(columns: int, step: int) -> None:
    lines = drawn(progress_at(step), columns).splitlines()
    assert {len(line) for line in lines} == {min(columns, 84)}
    assert "quick[start]" in lines[0]


def test_panel_says_what_matters() -> None:
    text = drawn(progress_at(440), 100)
    for part in (
        "440",
        "901k tokens",
        "len 128 · 4 layers x 64",
        "328k parameters",
        "2 workers",
        "width at -0.048",
        "depth 2→4",
        "s left",
        "45%",
    ):
        assert part in text


def test_panel_without_finite_loss() -> None:
    newest = progress_at(440).newest
    assert newest is not None
    assert "not finite" in drawn(advance(progress_at(440), newest | {"loss": None}), 60)


def test_sparkline_spans_its_own_range() -> None:
    assert sparkline([3.0, 2.0, 1.0], 24) == "█▅▁"
    assert len(sparkline([float(i) for i in range(1000)], 24)) == 24
    assert sparkline([], 24) == ""
    assert sparkline([5.0, 5.0], 24) == "▁▁"


def test_plain_lines_are_ascii_and_hold_events_in_order() -> None:
    console, out = plain_console(line_interval_s=0.0)
    console.start()
    console.consume(METRICS[:300], DECISIONS[:1])
    console.consume(METRICS[300:], DECISIONS[1:])
    console.close()
    lines = out.getvalue().splitlines()
    assert out.getvalue().isascii()
    assert lines[0] == "start at step 0 on 2 workers, cpu"
    assert lines[-1].startswith("end at step 700: 1.43M tokens in 1 min 4")
    assert [line.split(" at ")[0] for line in lines if line.startswith("decision")] == [
        "decision 1: length 32 -> 64",
        "decision 2: length 64 -> 128",
        "decision 3: depth 2 -> 4",
        "decision 4: width 64 -> 128",
    ]
    assert sum(line.startswith("step ") for line in lines) == 1


def test_plain_progress_only_once_an_interval() -> None:
    console, out = plain_console(line_interval_s=60.0)
    for record in METRICS[:100]:
        console.consume([record], [])
    assert not any(line.startswith("step") for line in out.getvalue().splitlines())


def test_a_resumed_run_does_not_print_its_past() -> None:
    console, out = plain_console(line_interval_s=60.0)
    restart = {"kind": "start", "attempt": 2, "step": 230, "time_s": 40.0, "world_size": 1, "device": "cpu", "run_id": None}
    console.consume([*[record for record in METRICS if record["step"] <= 230], restart], DECISIONS[:1])
    assert out.getvalue().splitlines() == ["start at step 230 on 1 worker, cpu, attempt 2"]


def test_progress_line() -> None:
    line = progress_line(progress_at(440), BUDGET)
    assert line.startswith("step 440 | 45% | 901k tokens | len 128, 4 layers x 64 | loss 3.")
    assert line.endswith("s left")


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")])
def test_a_terminal_that_is_gone_ends_the_display_alone(error: OSError) -> None:
    class Gone(io.StringIO):
        attempts = 0

        def write(self, text: str) -> int:
            self.attempts += 1
            raise error

    gone = Gone()
    console = Console(BUDGET, "run", OwnTerminal(file=gone))
    console.consume(METRICS[:100], [])
    console.consume(METRICS[100:], DECISIONS)
    assert gone.attempts == 1


def test_live_panel_is_drawn_and_left_on_the_screen() -> None:
    out = io.StringIO()
    console = Console(BUDGET, "run", Terminal(file=out, width=80, force_terminal=True))
    console.start()
    console.consume(METRICS, DECISIONS)
    console.close()
    assert "done in" in out.getvalue()
