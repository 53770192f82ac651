import io

import pytest
from rich.console import Console as Terminal

from raystage.data.progress import Meter
from raystage.tracking import progress_bars as module
from raystage.tracking.progress_bars import progress_bars


def drawn(out: io.StringIO, columns: int = 80) -> Terminal:
    return Terminal(file=out, width=columns, force_terminal=True, color_system=None)


@pytest.mark.parametrize("columns", [40, 80])
def test_every_label_gets_a_bar_also_after_one_that_is_full(columns: int) -> None:
    out = io.StringIO()
    with progress_bars(drawn(out, columns)) as progress:
        progress("read", 0, 2_000_000)
        progress("read", 2_000_000, 2_000_000)
        progress("texts", 3, 40, "texts")
        progress("trials", 1, None, "trials")
    assert "0 bytes of 2.0 MB" in out.getvalue() or columns == 40
    assert "3 of 40 texts" in out.getvalue()
    assert "1 trials" in out.getvalue()


def test_lines_without_a_terminal_are_few_and_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress_bars(Terminal(file=out, width=30)) as progress:
        for done in range(0, 2501, 100):
            now[0] = done / 100
            progress("fetch [records]", done * 1000, 2_500_000)
            progress("texts", done, None, "texts")
    assert out.getvalue().splitlines() == [
        "fetch [records]",
        "texts",
        "fetch [records]: 1.0 MB of 2.5 MB",
        "texts: 1,000 texts",
        "fetch [records]: 2.0 MB of 2.5 MB",
        "texts: 2,000 texts",
    ]


def test_a_meter_of_parts_begins_a_part_again() -> None:
    told: list[tuple[int, int | None]] = []
    meter = Meter(lambda label, done, total, unit="bytes": told.append((done, total)), "fetch", 30)
    first = meter.part()
    for n_bytes in (5, 10, 0, 10):
        first(n_bytes)
    meter.part()(20)
    assert told == [(0, 30), (5, 30), (10, 30), (0, 30), (10, 30), (30, 30)]
