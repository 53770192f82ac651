"""`raystage replay` as a user meets it: triggers on made curves, the growth point of two, a run decided again."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console

from raystage.config import dump
from raystage.pacing.fit import LossCurve, fit_growth
from raystage.runtime.replay_run import compare_run
from raystage.runtime.replay_table import fit_table
from raystage.training.errors import TrainingError
from tests.test_cli import Said, raystage
from tests.training.made_run import configure, train_here

BATCH_TOKENS = 8192
EXPONENT, FLOOR = 0.4, 2.5
N_STEPS = 1500


def loss_at(step: np.ndarray, crossing_step: float, threshold: float) -> np.ndarray:
    """A power law with a floor whose slope on log-log axes is `threshold` at `crossing_step`; steeper before, flatter after."""
    share = -threshold / EXPONENT  # of the loss that is above the floor there
    amplitude = FLOOR * share / (1 - share) * crossing_step**EXPONENT
    return np.asarray(amplitude * step**-EXPONENT + FLOOR)


def write_csv(path: Path, step: np.ndarray, loss: np.ndarray, **columns: np.ndarray) -> Path:
    table = {"step": step, "loss": loss, **columns}
    rows = zip(*table.values(), strict=True)
    path.write_text(",".join(table) + "\n" + "".join(",".join(f"{cell:.9g}" for cell in row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """curve.csv crosses PAPER's threshold of depth at step 600; sparse.csv is every 20th row of it."""
    folder, step = tmp_path_factory.mktemp("replay"), np.arange(1.0, N_STEPS + 1)
    loss = loss_at(step, 600, -0.0575) * (1 + np.random.default_rng(0).normal(0, 0.003, N_STEPS))
    write_csv(folder / "curve.csv", step, loss)
    write_csv(folder / "short.csv", step[:100], loss[:100])
    write_csv(folder / "sparse.csv", step[19::20], loss[19::20], tokens=BATCH_TOKENS * step[19::20])
    decay = np.where(step > 500, 1e-3 * np.exp(-(step - 500) / 200), 1e-3)
    write_csv(folder / "decaying.csv", step, loss, lr=decay)
    return folder


Rows = dict[str, dict[str, Any]]
PAPER = "pacing.thresholds={length: -0.1, depth: -0.0575}"


def rows_of(said: Said) -> Rows:
    assert said.code == 0, said.stderr
    return {row["rule"]: row for row in json.loads(said.stdout)}


def replay(folder: Path, *arguments: str) -> Rows:
    return rows_of(raystage("replay", arguments[0], PAPER, *arguments[1:], "--json", cwd=folder))


@pytest.fixture(scope="module")
def dense(folder: Path) -> Rows:
    return replay(folder, "curve.csv", "--batch-tokens", str(BATCH_TOKENS))


def test_each_rule_fires_after_its_slope_is_reached_and_not_before(dense: Rows) -> None:
    rows = dense
    assert list(rows) == ["length", "depth", "width", "both", "batch"]
    depth = rows["depth"]
    assert 600 < depth["step"] < 1100
    assert depth["tokens"] == depth["step"] * BATCH_TOKENS
    assert depth["threshold"] == -0.0575 < depth["slope"] < -0.02
    assert depth["slope_bound"] > depth["threshold"]
    assert rows["length"]["step"] < depth["step"] < rows["width"]["step"]
    assert rows["both"]["step"] is None
    assert rows["both"]["reason"] == "below threshold"


def test_a_threshold_given_moves_its_own_trigger_alone(folder: Path, dense: Rows) -> None:
    overrides = ("pacing.thresholds.depth=-0.07", "pacing.thresholds.stop=-0.05")
    before, after = dense, replay(folder, "curve.csv", "--batch-tokens", str(BATCH_TOKENS), *overrides)
    assert after["depth"]["threshold"] == -0.07
    assert after["depth"]["step"] < before["depth"]["step"]
    assert after["width"] == before["width"]
    assert before["depth"]["step"] < after["stop"]["step"] < before["width"]["step"]


def test_parameters_scale_the_compute_and_move_no_trigger(folder: Path, dense: Rows) -> None:
    before, after = dense, replay(folder, "curve.csv", "--batch-tokens", str(BATCH_TOKENS), "--parameters", "1e5")
    assert [row["step"] for row in after.values()] == [row["step"] for row in before.values()]
    assert before["depth"]["compute"] is None
    assert after["depth"]["compute"] == pytest.approx(6e5 * after["depth"]["tokens"])


def test_a_model_that_has_seen_few_tokens_a_parameter_is_not_grown(folder: Path, dense: Rows) -> None:
    of_a_million = ["curve.csv", "--batch-tokens", str(BATCH_TOKENS), "--parameters", "1e6"]
    young = replay(folder, *of_a_million)
    assert (young["depth"]["step"], young["depth"]["reason"]) == (None, "min tokens")
    assert young["length"]["step"] == dense["length"]["step"]
    grown = replay(folder, *of_a_million, "pacing.min_tokens_per_parameter=8")
    assert 8e6 <= grown["depth"]["tokens"] < 8.5e6


def test_a_curve_of_every_20th_step_fires_too(folder: Path, dense: Rows) -> None:
    """Later, since a row of one step is noisier than an interval's mean, but never before the crossing."""
    sparse = replay(folder, "sparse.csv")
    assert 600 * BATCH_TOKENS < sparse["depth"]["tokens"] < 2 * dense["depth"]["tokens"]
    assert sparse["depth"]["step"] % 20 == 0


def test_nothing_fires_while_the_learning_rate_falls(folder: Path) -> None:
    rows = replay(folder, "decaying.csv", "--batch-tokens", str(BATCH_TOKENS))
    assert rows["width"]["step"] is None
    assert rows["width"]["reason"] == "lr moves"


@pytest.mark.parametrize(
    ("pacing", "steps"),
    [
        (["pacing.rule=linear", "pacing.lengths=[32,64,96]", "pacing.warmup.fraction=0.5"], [26, 51]),
        (["pacing.rule=two_stage", "pacing.lengths=[32,64]", "pacing.warmup.fraction=0.25"], [26]),
        (["pacing.rule=discrete", "pacing.lengths=[32,64,96]", "pacing.at=[0.1,0.3]"], [11, 31]),
        (["pacing.rule=table", "pacing.lengths=[32,64]", "pacing.depths=[1,2]", "pacing.at=[0.1,0.3]"], [11, 31]),
        (["pacing.rule=constant"], []),
    ],
)
def test_fixed_rules_change_where_the_hand_says(folder: Path, pacing: list[str], steps: list[int]) -> None:
    rows = replay(folder, "short.csv", "--batch-tokens", str(BATCH_TOKENS), *pacing)
    fixed = [row for rule, row in rows.items() if ":" in rule]
    assert [row["step"] for row in fixed] == steps
    assert [row["tokens"] for row in fixed] == [(step - 1) * BATCH_TOKENS for step in steps]
    assert "depth" in rows


def test_the_table_and_the_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = raystage("replay", "curve.csv", "--batch-tokens", "8192", "--parameters", "1e6", "--plot", "curve.png", cwd=folder)
    assert said.code == 0, said.stderr
    assert "-0.115" in said.stdout
    assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG"


N_SMALL, N_LARGE = 7e6, 28e6


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, step = tmp_path_factory.mktemp("pair"), np.arange(1.0, 2001)
    tokens, noise = 1e6 * step, np.random.default_rng(1).normal(0, 0.005, (2, len(step)))
    lr = np.minimum(1.0, step / 100)
    for name, amplitude, floor, wobble in (("small", 2.2, 3.3, noise[0]), ("large", 1.9, 3.0, noise[1])):
        loss = np.minimum(amplitude * (tokens / 1e8) ** -0.7 + floor, 12.0) * (1 + wobble)
        write_csv(folder / f"{name}.csv", step, loss, tokens=tokens, lr=lr)
    return folder


def test_two_curves_tell_the_growth_point(pair: Path) -> None:
    arguments = ["small.csv", "--fit", "large.csv", "--parameters", f"{N_SMALL}", "--parameters-large", f"{N_LARGE}"]
    said = raystage("replay", *arguments, "--json", "--plot", "pair.png", cwd=pair)
    assert said.code == 0, said.stderr
    fit = json.loads(said.stdout)
    # the closed form of tests/pacing/test_fit.py
    assert fit["loss"]["value"] == pytest.approx(3.781, rel=0.01)
    assert fit["rho"]["value"] == pytest.approx(0.406, rel=0.05)
    assert fit["threshold"]["value"] == pytest.approx(-0.0891, rel=0.1)
    assert fit["rho"]["low"] < fit["rho"]["value"] < fit["rho"]["high"]
    assert fit["small"]["fitted_from_tokens"] >= 99e6  # the warmup that lr tells of is left out
    assert (pair / "pair.png").exists()


def test_the_growth_point_in_words() -> None:
    tokens = 1e6 * np.arange(1.0, 2001)
    small, large = (LossCurve(tokens, a * (tokens / 1e8) ** -0.7 + c, n) for a, c, n in ((2.2, 3.3, N_SMALL), (1.9, 3.0, N_LARGE)))
    console = rich.console.Console(width=120, record=True, file=io.StringIO())
    console.print(fit_table(fit_growth(small, large, n_resamples=3)))
    text = console.export_text()
    for words in ("3.78", "0.405", "-0.0890", "90% interval", "residual 0.0"):
        assert words in text


MISTAKES = {
    "no tokens": (["curve.csv"], ["curve.csv", "--batch-tokens"]),
    "no such file": (["nothing.csv"], ["nothing.csv"]),
    "unknown key": (["curve.csv", "pacing.thresholds.deep=-0.1"], ["pacing.thresholds.deep", "pacing.thresholds.depth"]),
    "no key of pacing": (["curve.csv", "model.n_layer=2"], ["model", "no such key"]),
    "a threshold above 0": (["curve.csv", "pacing.thresholds.depth=0.1"], ["pacing.thresholds.depth", "below 0"]),
    "a rule without lengths": (["curve.csv", "--batch-tokens", "8192", "pacing.rule=linear"], ["pacing.lengths", "linear"]),
    "a probe": (["curve.csv", "pacing.signal=probe"], ["pacing.signal"]),
    "no seconds": (["curve.csv", "--batch-tokens", "8192", "pacing.axis=seconds"], ["pacing.axis", "seconds"]),
    "a fit without parameters": (["curve.csv", "--fit", "sparse.csv", "--batch-tokens", "8192"], ["--parameters-large"]),
    "a fit of one model": (
        ["curve.csv", "--fit", "curve.csv", "--batch-tokens", "8192", "--parameters", "1e6", "--parameters-large", "1e6"],
        ["--fit", "smaller one first"],
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(folder: Path, case: str) -> None:
    arguments, words = MISTAKES[case]
    said = raystage("replay", *arguments, cwd=folder)
    assert said.code == 2, said.stdout + said.stderr
    assert said.stderr.count("\n") == 1
    assert all(word in said.stderr for word in words), said.stderr


QUICK = ["validation.every_steps=1000", "checkpoint.every_steps=1000"]
SPANS = ["pacing.settle_tokens=1280", "pacing.min_dwell_tokens=5000", "pacing.min_tokens_per_parameter=0"]
# a guard this narrow rolls back until it may no more; the length rises by its share of the duration at the step of a growth
ROLLED_BACK_RUN = [
    "name=rolled-back",
    *SPANS,
    "pacing.rule=discrete",
    "pacing.at=[0.3]",
    "pacing.thresholds={depth: -3, width: -3}",
    "pacing.guard={loss_ratio: 1.005, action: rollback}",
    "training.duration=200 steps",
]
SLOPE_RUN = [
    "name=paced",
    *QUICK,
    "pacing.rule=slope",
    "pacing.at=null",
    *SPANS,
    "pacing.thresholds={length: -3, depth: -3, width: -3}",  # of any slope at all: what counts is that it is told again
    "pacing.guard.loss_ratio=null",
    "training.duration=260 steps",
    "training.schedule.warmup_steps=5",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose changes come by slope, and one with a schedule and rollbacks."""
    folder = tmp_path_factory.mktemp("run")
    for config in (configure(folder, SLOPE_RUN), configure(folder, ROLLED_BACK_RUN)):
        with contextlib.suppress(TrainingError):
            train_here(config)
        (folder / "runs" / config.name / "config.yaml").write_text(dump(config))
    return folder / "runs"


@pytest.mark.parametrize(
    ("name", "triggers"), [("paced", {"slope", "max_dwell"}), ("rolled-back", {"slope", "max_dwell", "schedule", "guard"})]
)
def test_a_run_is_decided_again_alike(run: Path, name: str, triggers: set[str]) -> None:
    made = [json.loads(line) for line in (run / name / "decisions.jsonl").read_text().splitlines()]
    assert {record["trigger"] for record in made} == triggers
    assert len(made) >= 3
    said = raystage("replay", name, cwd=run)
    assert said.code == 0, said.stderr
    assert f"same decisions: {len(made)}" in said.stdout


def _edit(path: Path, line: int, **changed: Any) -> str:
    before = path.read_text()
    lines = before.splitlines()
    lines[line] = json.dumps({**json.loads(lines[line]), **changed})
    path.write_text("\n".join(lines) + "\n")
    return before


@pytest.mark.parametrize("changed", [{"effective_step": 41}, {"trigger": "guard"}, {"kind": "grow_width"}])
def test_a_decision_that_differs_is_named_with_exit_code_1(run: Path, changed: dict[str, Any]) -> None:
    path = run / "paced" / "decisions.jsonl"
    before = _edit(path, 0, **changed)
    try:
        said = raystage("replay", "paced", cwd=run)
    finally:
        path.write_text(before)
    assert said.code == 1
    assert "different decisions: decision 1 was" in said.stderr
    assert str(next(iter(changed.values()))) in said.stderr


def test_a_decision_missing_or_too_many_is_named(run: Path) -> None:
    path = run / "paced" / "decisions.jsonl"
    before = path.read_text()
    try:
        path.write_text("".join(before.splitlines(keepends=True)[:-1]))
        assert "the run has no decision 3" in str(compare_run(run / "paced").difference)
        last = json.loads(before.splitlines()[-1])
        extra = {**last, "effective_step": last["effective_step"] + 10}
        path.write_text(before + json.dumps(extra) + "\n")
        assert "the replay has none" in str(compare_run(run / "paced").difference)
    finally:
        path.write_text(before)


def test_a_run_s_curve_is_replayed_stage_by_stage(run: Path) -> None:
    rows = json.loads(raystage("replay", "paced", "--json", cwd=run).stdout)
    assert {row["stage"] for row in rows} == {0, 1, 2, 3}


def test_losses_that_differ_lead_to_another_decision(run: Path) -> None:
    path = run / "paced" / "metrics.jsonl"
    before = path.read_text()
    records = [json.loads(line) for line in before.splitlines()]
    for record in records:
        if record["kind"] == "train" and record["stage"] == 0:
            record["loss"] = 5.0 * record["step"] ** -0.5
    try:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        comparison = compare_run(run / "paced")
    finally:
        path.write_text(before)
    assert comparison.difference is not None
