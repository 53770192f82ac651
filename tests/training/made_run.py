"""A small corpus and a short run in this process, for tests of training."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raystage.config import Config, dump, from_tree
from raystage.data.corpus import Corpus
from raystage.data.prepare import prepare
from raystage.devices.device import pick_device
from raystage.devices.ranks import Ranks
from raystage.runtime.assignment import Assignment
from raystage.runtime.run_folder import RunFolder
from raystage.runtime.worker import run_rank
from raystage.tracking.records import RunRecords

TREE: dict[str, Any] = {
    "name": "small",
    "model": {"context_length": 32, "n_layer": 2, "d_model": 32, "n_head": 4},
    "pacing": {
        "rule": "table",
        "lengths": [16, 32],
        "depths": [1, 2],
        "widths": [16, 32],
        "at": [0.2, 0.4, 0.6],
        "check_every_steps": 5,
    },
    "growth": {"rewarm_steps": 5},
    "training": {
        "duration": "60 steps",
        "batch_tokens": 256,
        "micro_batch_tokens": 128,
        "preflight": False,  # a third of so short a run; tests of its own, and of real processes, switch it on
        "optimizer": {"lr": 5e-3},
        "schedule": {"kind": "wsd", "warmup_steps": 5},
    },
    "validation": {"every_steps": 20, "rows": 8},
    "checkpoint": {"every_steps": 10},
    "runtime": {"engine": "local", "device": "cpu", "threads_per_worker": 1},
    "tracking": {"mlflow": False},
}

# of those keys that decide by slope, in a plan of three changes
SLOPE = [
    "pacing.rule=slope",
    "pacing.at=null",
    "pacing.thresholds={length: -0.9, depth: -0.9, width: -0.9}",
    "pacing.settle_tokens=0",
    "pacing.min_dwell_tokens=1024",
    "pacing.min_tokens_per_parameter=0",  # made runs see few
    "pacing.max_dwell_tokens=12800",
    "pacing.confidence=0.5",
    "training.duration=240 steps",
    "training.schedule.kind=constant",
    "checkpoint.every_steps=40",
]


def write_text(folder: Path) -> Path:
    """Some 80 kB of made prose, a document a file line."""
    random.seed(7)
    words = ["the", "loss", "of", "a", "model", "falls", "as", "stages", "grow", "longer", "and", "wider", "until", "slopes", "rest"]
    lines = (" ".join(random.choices(words, k=40)) for _ in itertools.repeat(None, 400))
    path = folder / "made.jsonl"
    path.write_text("".join(f'{{"text": "{line}."}}\n' for line in lines))
    return path


def configure(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The short run's configuration, with its text, cache and runs below `folder`."""
    text = folder / "made.jsonl"
    if not text.exists():
        write_text(folder)
    data = {
        "sources": [{"kind": "jsonl", "path": str(text)}],
        "validation_fraction": 0.1,
        "tokenizer": {"vocab_size": 300},
        "cache_dir": str(folder / "data"),
    }
    return from_tree({**TREE, "data": data, "storage": str(folder / "runs")}, overrides)


def corpus_of(config: Config) -> Corpus:
    return prepare(config.data)


def assign(config: Config) -> Assignment:
    folder = RunFolder.of(config).path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump(config))
    return Assignment(config, corpus_of(config).folder.absolute(), folder)


def train_here(config: Config, **kwargs: Any) -> RunRecords:
    """Trains in this process with one rank; returns the records. `stop_requested`: asked at every boundary."""
    if stop_requested := kwargs.pop("stop_requested", None):
        begins, every = iter([True]), config.pacing.check_every_steps
        kwargs["asked"] = lambda step, position: "stop" if not (next(begins, False) or step % every) and stop_requested() else None
    assignment = assign(config)
    run_rank(assignment, pick_device("cpu"), Ranks(), threads=1, **kwargs)
    return RunRecords.load(assignment.run_dir)


def losses(records: RunRecords) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in records.train]
