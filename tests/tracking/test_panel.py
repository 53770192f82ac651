"""The live panel on terminals of all kinds."""

import io
import random
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console as Terminal

from raystage.config import Config
from raystage.config.pacing import Pacing
from raystage.tracking.console import Console
from raystage.tracking.console import Terminal as OwnTerminal
from raystage.tracking.glyphs import ASCII, UNICODE, is_plain_locale
from raystage.tracking.goal import Goal
from raystage.tracking.loss_curve import LossCurve, sparkline
from raystage.tracking.panel import RunPanel
from raystage.tracking.plain_lines import progress_line
from raystage.tracking.progress import Progress, advance, decided
from tests.tracking.made_progress import DECISIONS, GOAL, METRICS, progress_at

NAME = "quick[start]"


class AsciiFile(io.TextIOWrapper):
    """A terminal of ASCII alone: what else is written raises."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", write_through=True)

    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode("ascii")


def drawn(progress: Progress, columns: int, name: str = NAME, **settings: Any) -> str:
    out = io.StringIO()
    Terminal(file=out, width=columns, force_terminal=True, color_system=None, **settings).print(RunPanel(progress, GOAL, name))
    return out.getvalue()


def words(text: str) -> str:
    """Without frame and line ends."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("columns", [30, 40, 59, 60, 84, 120])
@pytest.mark.parametrize("step", [0, 1, 120, 330, 700])
def test_panel_fits(columns: int, step: int) -> None:
    lines = drawn(progress_at(step, held=True, mfu=0.031), columns).splitlines()
    assert {len(line) for line in lines} == {min(columns, 84)}
    assert NAME in lines[0]


@pytest.mark.parametrize("columns", [40, 60, 84, 120])
def test_panel_says_what_matters(columns: int) -> None:
    text = words(drawn(progress_at(440, mfu=0.031), columns))
    for part in (
        "step 440",
        "901k tokens",
        "stage 4 of 5",
        "len 128",
        "4 layers x 64",
        "328k parameters",
        "2 workers",
        "3.1% MFU",
        "-0.066 ± 0.015",
        "bound -0.078",
        "width at -0.048",
        "0 of 2 looks",
        "depth 2→4",
        "s left",
        "45%",
    ):
        assert part in text


def test_trouble_is_seen() -> None:
    check = next(r for r in METRICS if r["kind"] == "check" and r["step"] == 440)
    progress = advance(progress_at(440, held=True, n_rollbacks=2, grad_norm=None), check | {"reason": "gradient norm"})
    stuck = {"kind": "storage", "step": 440, "is_over": False, "text": "storage is away [for 60 s]"}
    text = words(drawn(advance(progress, stuck), 84))
    for part in ("unstable: gradient norm", "gradient not finite", "pacing on hold", "2 rollbacks", "away [for 60 s]"):
        assert part in text
    assert "away" not in drawn(advance(advance(progress, stuck), stuck | {"is_over": True}), 84)
    assert "trouble" not in drawn(progress_at(440), 84)


def test_an_attempt_after_the_first_is_said() -> None:
    again = METRICS[0] | {"attempt": 3, "step": 439}
    assert "attempt 3" in drawn(advance(progress_at(440), again), 84)
    assert "attempt" not in drawn(progress_at(440), 84)


def test_losses_that_are_not_finite_are_seen() -> None:
    newest = progress_at(440).newest
    assert newest is not None
    text = drawn(advance(progress_at(440), newest | {"loss": None}), 60)
    assert "not finite" in text
    assert "!" in text


def test_a_terminal_of_ascii_alone() -> None:
    file = AsciiFile()
    terminal = Terminal(file=file, width=84, force_terminal=True, color_system=None)
    named = decided(progress_at(440, held=True), DECISIONS[2] | {"trigger": "manual", "reason": "grün → größer"})
    terminal.print(RunPanel(named, GOAL, "a-run" * 30))
    assert "-0.066 +/- 0.015" in file.text()
    assert "depth 2->4" in file.text()
    assert "gr?n -> gr??er" in file.text()
    assert {len(line) for line in file.text().splitlines()} == {84}


def test_a_locale_without_unicode_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_plain_locale({"LANG": "C", "LC_CTYPE": "C.UTF-8"}), "Python sets the latter by itself"
    assert is_plain_locale({"LC_ALL": "POSIX", "LANG": "en_US.UTF-8"})
    assert not is_plain_locale({})
    assert not is_plain_locale({"LANG": "C", "LC_CTYPE": "en_US.UTF-8"})
    monkeypatch.setenv("LC_ALL", "C")
    out = io.StringIO()
    console = Console(GOAL, "run", OwnTerminal(file=out, width=80, force_terminal=True, color_system=None))
    console.start()
    console.consume(METRICS, DECISIONS)
    console.close()
    assert "stage     5 of 5" in out.getvalue()
    assert out.getvalue().isascii()


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    def escapes() -> str:
        out = io.StringIO()
        Terminal(file=out, width=80, force_terminal=True, color_system="truecolor").print(RunPanel(progress_at(440), GOAL, NAME))
        return out.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[36m" in escapes()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "36m" not in escapes()


def test_a_notebook_has_one_output_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, panel: Any) -> None:
            shown.append(panel._repr_mimebundle_([], []))

    def display(panel: Any, display_id: bool) -> Handle:
        assert display_id
        assert not shown, "one output alone"
        Handle().update(panel)
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    fake: Any = types.ModuleType("IPython.display")
    fake.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    console = Console(GOAL, "run", Terminal(force_jupyter=True, file=io.StringIO()))
    console.start()
    console.consume(METRICS[:300], DECISIONS[:1])
    console.consume(METRICS[300:], DECISIONS[1:])
    console.close()
    assert len(shown) == 3
    assert "starting workers" in shown[0]["text/plain"]
    assert "done in" in shown[2]["text/plain"]
    assert shown[2]["text/html"].startswith("<pre")


def test_the_goal_of_a_configuration() -> None:
    pacing = Pacing(lengths=(256, 512, 1024), depths=(6, 12), order=("length", "length", "depth"), checks_in_a_row=3)
    assert (Goal.of(Config(pacing=pacing)).n_stages, Goal.of(Config(pacing=pacing)).looks) == (4, 3)


# -- the curve


def test_sparkline_spans_its_own_range() -> None:
    bars = UNICODE.bars
    assert sparkline([3.0, 2.0, 1.0], 24, bars) == "█▅▁"
    assert len(sparkline([float(i) for i in range(1000)], 24, bars)) == 24
    assert sparkline([], 24, bars) == ""
    assert sparkline([5.0, 5.0], 24, bars) == "▁▁"
    assert sparkline([3.0, None, 1.0], 24, bars) == "█!▁"
    assert sparkline([None, None], 24, bars) == "!!"


def test_a_jump_does_not_flatten_what_comes_after_and_noise_stays_low() -> None:
    fall = [3.0 - 0.1 * i for i in range(11)]
    assert sparkline([9.0, *fall], 24, ASCII.bars)[-9:] == sparkline([3.5, *fall], 24, ASCII.bars)[-9:]
    assert set(sparkline([3.0, 3.001, 3.0, 3.002], 24, ASCII.bars)) <= {"_", "."}


@given(st.integers(0, 700), st.integers(0, 10**6))
def test_the_curve_of_a_stage_keeps_its_mean_in_few_numbers(n_steps: int, seed: int) -> None:
    curve, noise = LossCurve(), random.Random(seed)
    losses = [noise.random() for _ in range(n_steps)]
    for loss in losses:
        curve = curve.plus(0, loss)
    n_closed = len(losses) - curve.open_steps
    assert len(curve.means) * curve.bin_steps == n_closed
    assert len(curve.means) < 96
    if n_closed:
        means = [mean for mean in curve.means if mean is not None]
        assert sum(means) / len(means) == pytest.approx(sum(losses[:n_closed]) / n_closed)


def test_a_loss_that_is_not_finite_stays_in_the_curve_of_its_stage() -> None:
    curve = LossCurve()
    for step in range(1000):
        curve = curve.plus(0, None if step == 500 else 1.0)
    assert curve.means.count(None) == 1
    assert curve.plus(1, 2.0).means == (2.0,)


# -- whatever the records hold


@given(st.data())
def test_no_record_is_too_poor_to_be_drawn(data: st.DataObject) -> None:
    records = [data.draw(st.sampled_from([r for r in METRICS if r["kind"] == kind])) for kind in data.draw(KINDS)]
    progress = Progress()
    for record in records:
        known = {"kind", "step", "stage", *(() if record["kind"] != "start" else ("attempt",))}
        lost = data.draw(st.sets(st.sampled_from(sorted(set(record) - known) or ["lr"])))
        progress = advance(progress, record | dict.fromkeys(lost & set(record)))
    for columns in (40, 84):
        lines = drawn(progress, columns).splitlines()
        assert all(len(line) <= columns for line in lines)
    assert progress_line(progress, GOAL.duration).isascii()


KINDS = st.lists(st.sampled_from(["start", "train", "check", "val", "end"]), max_size=6)
