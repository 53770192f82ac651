"""Records as Ray's metrics, and the Grafana dashboard that shows them."""

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from raystage.runtime import ray_metrics
from raystage.runtime.ray_metrics import COUNTERS, GAUGES, Numbers, RayMetrics, after_decision, after_record
from tests.made_run import made_records

METRICS, DECISIONS = made_records()
DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "raystage.json"


class FakeMetric:
    """Keeps what Ray is told, and is as strict as Ray."""

    made: dict[str, "FakeMetric"]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.tag_keys, self.values = tag_keys, dict[tuple[str, ...], float]()
        FakeMetric.made[name] = self

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        self.values[self._key(tags)] = self.values.get(self._key(tags), 0) + value

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert set(tags) == set(self.tag_keys)
        return tuple(tags[key] for key in self.tag_keys)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeMetric]:
    FakeMetric.made = {}
    for kind in ("Gauge", "Counter"):
        monkeypatch.setattr(ray_metrics, kind, FakeMetric)
    monkeypatch.setattr(ray_metrics, "_REPEAT_S", 0.01)
    return FakeMetric.made


def after(*records: dict[str, Any]) -> Numbers:
    numbers = Numbers()
    for record in records:
        numbers = after_record(numbers, record)
    return numbers


def train_at(step: int, **changed: Any) -> dict[str, Any]:
    return next(r for r in METRICS if r["kind"] == "train" and r["step"] == step) | changed


def check_at(step: int, **changed: Any) -> dict[str, Any]:
    return next(r for r in METRICS if r["kind"] == "check" and r["step"] == step) | changed


def test_gauges_are_the_newest_records() -> None:
    shown = after(*METRICS).gauges
    last = train_at(700)
    assert shown["raystage_loss"] == last["loss"]
    assert shown["raystage_tokens_seen"] == 700 * 2048
    assert (shown["raystage_stage"], shown["raystage_sequence_length_tokens"]) == (4, 128)
    assert (shown["raystage_layers"], shown["raystage_model_width"], shown["raystage_workers"]) == (4, 128, 2)
    assert shown["raystage_val_loss"] == [r for r in METRICS if r["kind"] == "val"][-1]["val_loss"]
    assert "raystage_mfu" not in shown, "null: the device's peak is not known"
    assert after(train_at(700, mfu=0.031)).gauges["raystage_mfu"] == 0.031


def test_the_slope_is_that_of_the_present_stage() -> None:
    check = check_at(110)
    shown = after(train_at(110), check).gauges
    assert [shown[f"raystage_slope{of}"] for of in ("", "_bound", "_threshold")] == [
        check["slope"],
        check["slope_bound"],
        check["threshold"],
    ]
    assert not any("slope" in name for name in after(train_at(110), check, train_at(121)).gauges), "a new stage has no slope yet"
    assert not any("slope" in name for name in after(train_at(121), check).gauges), "the answer of a check comes late"


def test_what_is_not_finite_is_a_gap_and_said() -> None:
    shown = after(train_at(10), train_at(11, loss=None)).gauges
    assert "raystage_loss" not in shown
    assert shown["raystage_finite"] == 0
    assert after(train_at(10, loss=None), train_at(11)).gauges["raystage_finite"] == 1
    assert after(train_at(10, held=True)).gauges["raystage_held"] == 1


def test_decisions_count_once_and_starts_after_the_first_are_restarts(told: dict[str, FakeMetric]) -> None:
    sink = RayMetrics("a-run", "an-experiment")
    sink.start()
    restart = METRICS[0] | {"attempt": 3, "step": 100}
    refused = DECISIONS[-1] | {"decision_id": 9, "outcome": "refused"}
    sink.consume([METRICS[0], restart], DECISIONS[:2])
    sink.consume([train_at(300)], [DECISIONS[1], *DECISIONS[2:], refused])
    sink.close()
    ours = ("a-run", "an-experiment")
    assert told["raystage_restarts_total"].values == {ours: 2}
    assert told["raystage_decisions_total"].values == {
        (*ours, "raise_seq_len", "applied"): 2,
        (*ours, "grow_depth", "applied"): 1,
        (*ours, "grow_width", "applied"): 1,
        (*ours, "grow_width", "refused"): 1,
    }
    assert told["raystage_loss"].values == {ours: train_at(300)["loss"]}


def test_gauges_are_set_again_and_again(told: dict[str, FakeMetric]) -> None:
    sink = RayMetrics("a-run", "an-experiment")
    sink.start()
    sink.consume([train_at(5)], [])
    for _ in range(2):  # Ray forgets a gauge once it has reported it
        told["raystage_step"].values.clear()
        deadline_s = time.monotonic() + 10
        while not told["raystage_step"].values:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    sink.close()


def test_one_decision_after_the_other_is_pure() -> None:
    numbers = after_decision(after_decision(Numbers(), DECISIONS[0]), DECISIONS[0])
    assert numbers.counts == {("raystage_decisions_total", "raise_seq_len", "applied"): 1}


# -- the dashboard


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return tree


def queries(dashboard: dict[str, Any]) -> list[str]:
    of_panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return of_panels + [a["expr"] for a in dashboard["annotations"]["list"] if not a.get("builtIn")]


def test_panels_have_their_own_ids_and_places(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_the_dashboard_asks_for_what_is_exported_and_for_all_of_it(dashboard: dict[str, Any]) -> None:
    asked = set(re.findall(r"ray_(raystage_\w+)", " ".join(queries(dashboard))))
    assert asked == {*GAUGES, *COUNTERS}


def test_every_query_is_of_the_chosen_runs_and_data_source(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        selectors = re.findall(r"ray_raystage_\w+(\{[^}]*\})?", query)
        assert selectors
        assert all(selector == '{run=~"$run"}' for selector in selectors), query
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert (variables["run"]["multi"], variables["run"]["includeAll"]) == (True, True)
    sources = [item["datasource"] for panel in dashboard["panels"] for item in (panel, *panel["targets"])]
    sources += [variable["datasource"] for variable in variables.values() if variable["type"] == "query"]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
