"""What a row of the table says."""

import json
from pathlib import Path

import pytest
import torch

from tests.bench.fresh import run_fresh
from tests.bench.result import Result, paired
from tests.bench.table import Table


@pytest.mark.parametrize(
    ("ratios", "target", "is_missed"),
    [
        ((0.8, 0.9, 1.3), ">= 0.90", False),
        ((0.8, 0.89, 1.3), ">= 0.90", True),
        ((1.0, 1.5), "<= 1", True),
        ((0.5, 1.5), "<= 1", False),
        ((9.0,), "(124M: 2)", False),
    ],
)
def test_a_target_is_missed_by_the_median(ratios: tuple[float, ...], target: str, is_missed: bool) -> None:
    result = Result("a bench", "another", "x", ratios, target, "")
    assert result.is_missed == is_missed
    assert ("missed" in result.line()) == is_missed


@pytest.mark.parametrize(("ratio", "target_missed", "gate_missed"), [(1.2, False, False), (1.05, True, False), (0.9, True, True)])
def test_a_goal_may_be_missed_where_the_gate_is_met(ratio: float, target_missed: bool, gate_missed: bool) -> None:
    result = Result("a bench", "another", "x", (ratio,), ">= 1.10", "", ">= 1.00")
    assert (result.is_missed, result.misses_gate) == (target_missed, gate_missed)
    assert ("MISSED" in result.line()) == gate_missed


def test_a_table_says_what_was_missed_and_keeps_it_with_its_conditions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(tmp_path / "bench.json")
    table.add(Result("one", "another", "x", (1.0, 1.05), ">= 1.10", "", ">= 1.00"))
    assert table.end() == 0
    said = capsys.readouterr().out
    assert "gates missed: none\ntargets missed: one (another)\n" in said
    table.add(Result("two", "another", "x", (0.9,), ">= 0.80", "", ">= 1.00"))
    assert table.end() == 1
    assert "gates missed: two (another)\ntargets missed: one (another)\n" in capsys.readouterr().out
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert [result["name"] for result in kept["results"]] == ["one", "two"]
    assert kept["torch"] == torch.__version__
    assert kept["device"] in said


@pytest.mark.long
def test_benches_run_in_processes_of_their_own() -> None:
    threads = torch.get_num_threads()
    result, *_others = run_fresh("bench_pacing")
    assert result.name == "pacing, CPU time a step"
    assert torch.get_num_threads() == threads


def test_pairs_take_turns_to_be_first_and_one_warms_up() -> None:
    order: list[str] = []

    def timed(name: str, figure: float) -> float:
        order.append(name)
        return figure

    assert paired(lambda: timed("a", 6.0), lambda: timed("b", 3.0), 3) == [2.0, 2.0, 2.0]
    assert "".join(order) == "ababbaab"
