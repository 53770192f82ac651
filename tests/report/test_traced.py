"""Every number of report.json, worked out anew from the lines of the run folders with nothing of the report's own code."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from raystage.report import build_report
from tests.made_run import STAGES, MadeStage, Record, write_lines, write_made_run

Tree = dict[str, Any]
LONG = (MadeStage(32, 2, 64, 1500, workers=1), MadeStage(64, 2, 64, 900, workers=2), MadeStage(64, 4, 64, 1100, workers=4))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run with null and large losses, one that is thinned, one on other workers."""
    folder = tmp_path_factory.mktemp("runs")
    made = {
        "short": write_made_run(folder / "short", STAGES),
        "long": write_made_run(folder / "long", LONG, seed=3),
        "wide": write_made_run(folder / "wide", (MadeStage(64, 2, 64, 400, workers=8),), seed=4),
    }
    lines = records_of(made["short"])
    for record in lines:
        if record["kind"] == "train":
            record["loss"] = {33: None, 44: 19.0, 55: 21.0}.get(record["step"], record["loss"])
            record["mfu"] = 0.3 + record["step"] / 1e4
            record |= {"tokens_dropped": 3 * record["step"], "tokens_undone": 7, "tokens_skipped": 7}
    write_lines(made["short"] / "metrics.jsonl", lines)
    return made


@pytest.fixture(scope="module")
def tree(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Tree:
    page = build_report(list(runs.values()), tmp_path_factory.mktemp("out"), baseline="wide")
    found: Tree = json.loads((page.parent / "report.json").read_text())
    assert (page.parent / "report.json").read_text().strip() in page.read_text(), "the page carries the same"
    return found


def records_of(folder: Path, name: str = "metrics.jsonl") -> list[Record]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def of_kind(folder: Path, kind: str) -> list[Record]:
    return [record for record in records_of(folder) if record["kind"] == kind]


def cited(tree: object) -> list[Tree]:
    """Every leaf with a source."""
    if isinstance(tree, dict):
        if {"value", "file", "kind", "key", "steps"} <= set(tree):
            return [tree]
        return [leaf for value in tree.values() for leaf in cited(value)]
    return [leaf for value in tree for leaf in cited(value)] if isinstance(tree, list) else []


def test_every_number_names_records_that_are_there(runs: dict[str, Path], tree: Tree) -> None:
    n_plain = 0
    for run in tree["runs"]:
        by_step = {kind: {record["step"]: record for record in of_kind(runs[run["name"]], kind)} for kind in ("train", "val")}
        leaves = cited(run)
        assert len(leaves) >= 30
        for leaf in leaves:
            found = [by_step[leaf["kind"]][step] for step in leaf["steps"]]
            assert leaf["value"] is None or found
            if not leaf["how"] and leaf["key"] in found[0]:
                assert [leaf["value"]] == [record[leaf["key"]] for record in found]
                n_plain += 1
    assert n_plain > 30


def test_facts(runs: dict[str, Path], tree: Tree) -> None:
    for run in tree["runs"]:
        train, val = of_kind(runs[run["name"]], "train"), of_kind(runs[run["name"]], "val")
        best, ratios = math.inf, {}
        for record in train:
            if record["loss"] is not None:
                ratios[record["step"]] = record["loss"] / best
                best = min(best, record["loss"])
        last = [record for record in train if record["stage"] == train[-1]["stage"]]
        before = next((record for record in reversed(train) if record["stage"] != last[-1]["stage"]), {"flops": 0.0, "tokens_seen": 0})
        per_token = (last[-1]["flops"] - before["flops"]) / (last[-1]["tokens_seen"] - before["tokens_seen"])
        expected = {
            "val_loss": val[-1]["val_loss"],
            "perplexity": math.exp(val[-1]["val_loss"]),
            "tokens": train[-1]["tokens_seen"],
            "flops": train[-1]["flops"],
            "time_s": train[-1]["time_s"],
            "static_flops": per_token * train[-1]["tokens_seen"],
            "share_of_static": train[-1]["flops"] / (per_token * train[-1]["tokens_seen"]),
            "tokens_per_s": statistics.median(record["tokens_per_s"] for record in train),
            "mfu": statistics.median([record["mfu"] for record in train if record["mfu"] is not None] or [math.nan]),
            "worst_loss_ratio": max(ratios.values()),
            "n_unstable": sum(ratio > 1.2 for ratio in ratios.values()),
            "n_not_finite": sum(record["loss"] is None for record in train),
            "largest_grad_norm": max(record["grad_norm"] for record in train),
            "largest_second_moment": max(record["second_moment"] for record in train if record["second_moment"] is not None),
        }
        found = {name: math.nan if leaf["value"] is None else leaf["value"] for name, leaf in run["numbers"].items()}
        assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)
        assert ratios[run["numbers"]["worst_loss_ratio"]["steps"][0]] == expected["worst_loss_ratio"]
    assert {run["name"]: run["numbers"]["n_unstable"]["value"] for run in tree["runs"]}["short"] == 2


def test_stages_and_account(runs: dict[str, Path], tree: Tree) -> None:
    for run in tree["runs"]:
        train, val = of_kind(runs[run["name"]], "train"), of_kind(runs[run["name"]], "val")
        before: Record = {"tokens_seen": 0, "flops": 0.0, "time_s": 0.0}
        for stage, row in enumerate(run["stages"]):
            inside = [record for record in train if record["stage"] == stage]
            losses = [record["loss"] for record in inside if record["loss"] is not None]
            expected = {clock: inside[-1][clock] - before[clock] for clock in before}
            expected |= {"first_loss": losses[0], "last_loss": sum(losses[-10:]) / 10, "n_parameters": inside[-1]["n_parameters"]}
            expected["val_loss"] = [record["val_loss"] for record in val if record["stage"] == stage and record["stage_end"]][-1]
            assert {name: row[name]["value"] for name in expected} == pytest.approx(expected, rel=1e-9)
            assert (row["first_step"], row["last_step"]) == (inside[0]["step"], inside[-1]["step"])
            before = {clock: inside[-1][clock] for clock in before}
        last = train[-1]
        undone, dropped = last.get("tokens_undone", 0), last.get("tokens_dropped", 0)
        account = {name: leaf["value"] for name, leaf in run["account"].items()}
        assert account["trained"] == last["tokens_seen"] - undone
        assert account["passed"] == last["tokens_seen"] - undone + dropped + last.get("tokens_skipped", 0)
        assert (account["undone"], account["dropped"], account["recycled"]) == (undone, dropped, 0)


def test_throughput_and_scaling(runs: dict[str, Path], tree: Tree) -> None:
    def median(name: str, shape: str, workers: int) -> tuple[int, float]:
        inside = [r for r in of_kind(runs[name], "train") if shape_of(r) == shape and r["world_size"] == workers]
        return len(inside), statistics.median(record["tokens_per_s"] for record in inside)

    for run in tree["runs"]:
        for row in run["throughput"]:
            assert (row["steps"], row["tokens_per_s"]["value"]) == median(run["name"], row["shape"], row["workers"])
    shape = "len 64 · 2 layers x 64"
    rows = [(row["run"], row["workers"]) for row in tree["scaling"] if row["shape"] == shape]
    assert sorted(rows) == [("long", 2), ("short", 2), ("wide", 8)]
    wide = next(row for row in tree["scaling"] if row["run"] == "wide" and row["shape"] == shape)
    assert wide["ratio"] == pytest.approx(median("wide", shape, 8)[1] / median("short", shape, 2)[1])
    assert wide["efficiency"] == pytest.approx(wide["ratio"] / 4)


def shape_of(record: Record) -> str:
    return f"len {record['seq_len_tokens']} · {record['n_layer']} {'layer' if record['n_layer'] == 1 else 'layers'} x {record['d_model']}"


def test_study(runs: dict[str, Path], tree: Tree) -> None:
    study, target = tree["study"], of_kind(runs["wide"], "val")[-1]["val_loss"]
    assert (study["baseline"], study["target"]["value"]) == ("wide", target)

    def crossing(name: str, clock: str) -> float:
        before: Record = {}
        for record in of_kind(runs[name], "val"):
            if record["val_loss"] <= target:
                if not before:
                    return float(record[clock])
                share = (before["val_loss"] - target) / (before["val_loss"] - record["val_loss"])
                return float(before[clock] + share * (record[clock] - before[clock]))
            before = record
        raise AssertionError(name)

    reached = {row["name"]: row for row in study["rows"] if row["needed"]}
    assert len(reached) >= 2
    for name, row in reached.items():
        for clock in ("tokens_seen", "flops", "time_s"):
            assert row["needed"][clock]["value"] == pytest.approx(crossing(name, clock))
            assert row["saved"][clock]["value"] == pytest.approx(1 - crossing(name, clock) / crossing("wide", clock), abs=1e-12)
    for name in set(runs) - set(reached):
        assert min(record["val_loss"] for record in of_kind(runs[name], "val")) > target


def test_series(runs: dict[str, Path], tree: Tree) -> None:
    """How many records each stands for, and its first and last value."""
    assert len(tree["series"]) > 30
    for series in tree["series"]:
        if series["run"] is None:
            continue
        folder, key = runs[series["run"]], series["key"]
        if series["kind"] == "decision":
            decisions = records_of(folder, "decisions.jsonl")
            assert (series["records"], series["last"]["y"]) == (len(decisions), decisions[-1]["effective_step"])
            assert series["points"] + series["beyond"] == len(decisions)
            continue
        records = of_kind(folder, series["kind"])
        known = [record for record in records if record[key] is not None]
        assert series["records"] == len(records)
        if "smallest loss before" in series["how"]:
            assert series["values"] == len(known) - 1, "there is none before the first"
        elif series["id"].endswith("fired"):
            assert series["values"] == sum(record["fired"] for record in records)
        elif key in ("slope_bound", "threshold"):
            assert series["values"] == sum(record["slope"] is not None and record[key] is not None for record in records)
        else:
            assert series["values"] == len(known)
        if series["how"].startswith("every record") and key not in ("slope_bound", "threshold"):
            first, last = ({"step": r["step"], "x": r[series["x_key"]], "y": r[key]} for r in (known[0], known[-1]))
            assert (series["first"], series["last"]) == (first, last)
            assert series["points"] + series["beyond"] == series["values"] or series["values"] > 800 >= series["points"]


def test_points(runs: dict[str, Path], tree: Tree) -> None:
    """Each is a record of its step; the largest of many are among them."""
    for series in tree["series"]:
        if series["read"] is None:
            continue
        points, records = tree["points"][series["read"]], of_kind(runs[series["run"]], series["kind"])
        assert len(points["step"]) == len(points["y"]) == series["points"]
        by_step = {record["step"]: record[series["key"]] for record in records}
        if "smallest loss before" in series["how"]:
            by_step = ratios_of(records)
            assert max(points["y"]) == pytest.approx(max(by_step.values()), rel=1e-5)
        assert [by_step[step] for step in points["step"]] == pytest.approx(points["y"], rel=1e-5)


def ratios_of(train: list[Record]) -> dict[int, float]:
    losses = [(record["step"], record["loss"]) for record in train if record["loss"] is not None]
    return {step: loss / min(other for _, other in losses[:i]) for i, (step, loss) in enumerate(losses) if i}


def test_running_mean(runs: dict[str, Path], tree: Tree) -> None:
    """The last point of a stage has a window of one step: its own."""
    means = [series for series in tree["series"] if series["id"].startswith("tokens-") and series["how"].startswith("centred")]
    assert len(means) == 3
    for series in means:
        last = of_kind(runs[series["run"]], "train")[-1]
        assert series["last"] == {"step": last["step"], "x": last["tokens_seen"], "y": pytest.approx(last["loss"])}
