"""A made run folder: five stages, realistic losses, two length raises, a depth and a width growth."""

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class MadeStage:
    seq_len_tokens: int
    n_layer: int
    d_model: int
    steps: int
    workers: int = 2

    @property
    def n_parameters(self) -> int:
        return 12 * self.n_layer * self.d_model**2 + 2048 * self.d_model

    @property
    def shape(self) -> dict[str, int]:
        return {"seq_len_tokens": self.seq_len_tokens, "n_layer": self.n_layer, "d_model": self.d_model}


STAGES = (
    MadeStage(32, 2, 64, 120),
    MadeStage(64, 2, 64, 110),
    MadeStage(128, 2, 64, 130),
    MadeStage(128, 4, 64, 140),
    MadeStage(128, 4, 128, 200),
)
_CHANGES = {
    "seq_len_tokens": ("length", "raise_seq_len", -0.1),
    "n_layer": ("depth", "grow_depth", -0.0575),
    "d_model": ("width", "grow_width", -0.0475),
}
_BATCH_TOKENS = 2048
_CHECK_STEPS = 10
_VAL_STEPS = 50


def write_made_run(run_dir: Path, stages: tuple[MadeStage, ...] = STAGES, seed: int = 1) -> Path:
    """Writes metrics.jsonl, decisions.jsonl and config.yaml; returns the folder."""
    metrics, decisions = made_records(stages, seed)
    run_dir.mkdir(parents=True)
    write_lines(run_dir / "metrics.jsonl", metrics)
    write_lines(run_dir / "decisions.jsonl", decisions)
    (run_dir / "config.yaml").write_text(f"name: {run_dir.name}\nmodel:\n  n_layer: {stages[-1].n_layer}\n")
    return run_dir


def write_lines(path: Path, records: list[Record]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def made_records(stages: tuple[MadeStage, ...] = STAGES, seed: int = 1) -> tuple[list[Record], list[Record]]:
    """The lines of metrics.jsonl and of decisions.jsonl."""
    run = _Maker(random.Random(seed))
    run.metrics.append({"kind": "start", "attempt": 1, "step": 0, "time_s": 0.0, "world_size": 2, "device": "cpu", "run_id": None})
    for index, stage in enumerate(stages):
        run.train_stage(index, stage, stages[index + 1] if index + 1 < len(stages) else None)
    run.metrics.append({"kind": "end", **run.clock})
    return run.metrics, run.decisions


class _Maker:
    def __init__(self, noise: random.Random) -> None:
        self.noise = noise
        self.metrics: list[Record] = []
        self.decisions: list[Record] = []
        self.clock: Record = {"step": 0, "tokens_seen": 0, "flops": 0.0, "time_s": 0.0}
        self.skill = 0.0
        self.slope = -0.2

    def train_stage(self, index: int, stage: MadeStage, after: MadeStage | None) -> None:
        for step in range(1, stage.steps + 1):
            self._step(index, stage, step)
            if after is not None and step % _CHECK_STEPS == 0:
                self._check(index, stage, after, step)
            if step == stage.steps or self.clock["step"] % _VAL_STEPS == 0:
                self._validate(index, stage, step == stage.steps)
        if after is not None:
            self._decide(stage, after)

    def _step(self, index: int, stage: MadeStage, step: int) -> None:
        self.clock = {
            "step": self.clock["step"] + 1,
            "tokens_seen": self.clock["tokens_seen"] + _BATCH_TOKENS,
            "flops": self.clock["flops"]
            + _BATCH_TOKENS * (6.0 * stage.n_parameters + 12 * stage.n_layer * stage.seq_len_tokens * stage.d_model),
            "time_s": round(self.clock["time_s"] + 0.05 + 4e-7 * stage.n_parameters / 2, 3),
        }
        self.skill += 1 + 0.8 * index
        loss = self._floor(stage) + self.noise.gauss(0, 0.03) + 0.25 * math.exp(-step / 8) * (index > 0)
        self.metrics.append(
            {"kind": "train", **self.clock, **stage.shape, "batch_tokens": _BATCH_TOKENS, "n_parameters": stage.n_parameters}
            | {"loss": loss, "lr": 1e-3 * min(1.0, self.clock["step"] / 50), "grad_norm": 0.8 + abs(self.noise.gauss(0, 0.1))}
            | {"slope": self.slope if step > 40 else None, "tokens_per_s": _BATCH_TOKENS / 0.18, "mfu": None}
            | {"second_moment": 1e-3 / math.sqrt(step) if step % _CHECK_STEPS == 0 else None}
            | {"world_size": stage.workers, "attempt": 1, "stage": index}
        )

    def _floor(self, stage: MadeStage) -> float:
        return 2.6 + 5.0 * (1 + self.skill / 20) ** -0.55 + 0.35 * (32 / stage.seq_len_tokens) ** 0.5

    def _check(self, index: int, stage: MadeStage, after: MadeStage, step: int) -> None:
        change, _, threshold = _change(stage, after)
        self.slope = slope = threshold * (0.85 + 3 * math.exp(-3 * step / stage.steps))
        fired = step == stage.steps
        reason = "settling" if step <= 30 else "below threshold"
        self.metrics.append(
            {"kind": "check", "step": self.clock["step"], "tokens_seen": self.clock["tokens_seen"], "stage": index, "change": change}
            | {
                "slope": slope if step > 30 else None,
                "slope_se": 0.015 if step > 30 else None,
                "slope_bound": slope - 0.012 if step > 30 else None,
            }
            | {"threshold": threshold, "in_a_row": int(fired), "fired": fired, "reason": "fired" if fired else reason}
        )

    def _validate(self, index: int, stage: MadeStage, stage_end: bool) -> None:
        val_loss = self._floor(dataclasses.replace(stage, seq_len_tokens=128)) + 0.25 * (128 / stage.seq_len_tokens - 1) ** 0.5
        self.metrics.append({"kind": "val", **self.clock, "val_loss": val_loss, "stage": index, "stage_end": stage_end})

    def _decide(self, stage: MadeStage, after: MadeStage) -> None:
        _, kind, threshold = _change(stage, after)
        probe = None if kind == "raise_seq_len" else self._floor(stage)
        self.decisions.append(
            {"decision_id": len(self.decisions) + 1, "kind": kind, "from": stage.shape, "to": after.shape}
            | {"effective_step": self.clock["step"] + 1, "tokens_seen": self.clock["tokens_seen"], "trigger": "slope"}
            | {"slope": self.slope, "threshold": threshold, "outcome": "applied"}
            | {"probe_before": probe, "probe_after": probe and probe + 2e-7}
        )


def _change(stage: MadeStage, after: MadeStage) -> tuple[str, str, float]:
    changed = [key for key in _CHANGES if stage.shape[key] != after.shape[key]]
    return ("both", "grow_both", -0.03) if len(changed) > 1 else _CHANGES[changed[0]]
