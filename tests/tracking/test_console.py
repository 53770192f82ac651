import io
from typing import Any

import pytest
from rich.console import Console as Terminal

from raystage.config.duration import Duration, parse_duration
from raystage.tracking.console import Console
from raystage.tracking.console import Terminal as OwnTerminal
from raystage.tracking.plain_lines import mfu, progress_line
from raystage.tracking.progress import nearness, percent_done, share_done, time_left_s
from tests.tracking.made_progress import BUDGET, DECISIONS, GOAL, METRICS, progress_at


def plain_console(**more: Any) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(GOAL, "run", Terminal(file=out, width=60, highlight=False), **more), out


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


@pytest.mark.parametrize("n_chunks", [1, 3])
def test_a_resumed_run_does_not_print_its_past(n_chunks: int) -> None:
    """However much of it comes at once."""
    console, out = plain_console(line_interval_s=60.0, after_attempt=1)
    restart = {"kind": "start", "attempt": 2, "step": 230, "time_s": 40.0, "world_size": 1, "device": "cpu", "run_id": None}
    past = [record for record in METRICS if record["step"] <= 230]
    size = len(past) // n_chunks
    for number in range(n_chunks - 1):
        console.consume(past[size * number : size * (number + 1)], DECISIONS[:1] if number == 0 else [])
    console.consume([*past[size * (n_chunks - 1) :], restart], DECISIONS[:1] if n_chunks == 1 else [])
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
    console = Console(GOAL, "run", OwnTerminal(file=gone))
    console.consume(METRICS[:100], [])
    console.consume(METRICS[100:], DECISIONS)
    assert gone.attempts == 1


def test_a_percent_of_a_long_run_has_a_decimal() -> None:
    assert percent_done(progress_at(440), BUDGET) == "45%"
    assert percent_done(progress_at(440), Duration(2e8, "tokens")) == "0.5%"
    assert percent_done(progress_at(0), BUDGET) == "0%"


def test_a_small_mfu_is_said_too() -> None:
    assert [mfu({"mfu": share}) for share in (0.45, 0.1, 0.0312, 0.0004, 1.0, None)] == [
        "45% MFU",
        "10% MFU",
        "3.1% MFU",
        "0.04% MFU",
        "100% MFU",
        "",
    ]


@pytest.mark.parametrize("variable", ["TERM", "TTY_INTERACTIVE"])
def test_where_nothing_can_be_drawn_over_there_are_lines(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, {"TERM": "dumb", "TTY_INTERACTIVE": "0"}[variable])
    out = io.StringIO()
    console = Console(GOAL, "run", Terminal(file=out, width=80, force_terminal=True, highlight=False), line_interval_s=0.0)
    console.start()
    console.consume(METRICS[:300], DECISIONS[:1])
    console.close()
    assert out.getvalue().isascii()
    assert out.getvalue().startswith("start at step 0")
    assert "\nstep 2" in out.getvalue()


def test_lines_are_ascii_whatever_they_speak_of() -> None:
    console, out = plain_console()
    console.say("läuft → 2")
    assert out.getvalue() == "l?uft -> 2\n"


def test_live_panel_is_drawn_and_left_on_the_screen() -> None:
    out = io.StringIO()
    console = Console(GOAL, "run", Terminal(file=out, width=80, force_terminal=True))
    console.start()
    console.consume(METRICS, DECISIONS)
    console.close()
    assert "done in" in out.getvalue()
