"""What a report keeps of a run once its million records have been read: small enough for many runs, and to be handed between processes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from raystage.report.account import Account, account_of
from raystage.report.columns import Columns
from raystage.report.evaluations import Evaluated
from raystage.report.facts import Facts, facts_of
from raystage.report.run import Run, load_run
from raystage.report.samples import Sample
from raystage.report.series import (
    N_PEAKS,
    Series,
    decision_series,
    peaks,
    ratio_of,
    ratio_peaks,
    recorded,
    running_mean,
    slopes,
    where_known,
)
from raystage.report.side_by_side import SideBySide
from raystage.report.stability import loss_ratios
from raystage.report.stages import Stage, base_of, stages_of
from raystage.report.throughput import Throughput, throughputs_of
from raystage.tracking.records import Record


@dataclasses.dataclass(frozen=True)
class WorkerChange:
    """From `step` on, at `tokens_seen`, there were so many workers."""

    step: int
    tokens_seen: float
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class Digest:
    """`base`: by clock, what the run began with. `starts`, `ends`: how often it was started and came to its end."""

    name: str
    facts: Facts
    stages: list[Stage]
    base: Mapping[str, float]
    val: Columns
    series: Mapping[str, Series]
    throughputs: list[Throughput]
    worker_changes: list[WorkerChange]
    world_sizes: list[int]
    account: Account
    decisions: list[Record]
    last_step: int
    n_starts: int
    n_ends: int
    device: str
    config_text: str | None
    sample_text: str | None
    samples: list[Sample]
    evaluations: list[Evaluated]


def digests_of(folders: Sequence[tuple[Path, str]], side_by_side: SideBySide = map) -> list[Digest]:
    """Of run folders with their names, in order. Raises ConfigError."""
    return list(side_by_side(_load, folders))


def _load(folder: tuple[Path, str]) -> Digest:
    return digest_of(load_run(*folder))


def digest_of(run: Run) -> Digest:
    """Everything that the page says of one run."""
    stages, train = stages_of(run), run.train
    ratios = loss_ratios(train["loss"])
    return Digest(
        name=run.name,
        facts=facts_of(run, stages, ratios),
        stages=stages,
        base=base_of(train, run.metrics.of["start"]),
        val=run.val,
        series={name: series for name, series in _series(run, ratios).items() if not series.is_empty},
        throughputs=throughputs_of(run.name, train, stages),
        worker_changes=_worker_changes(train),
        world_sizes=[int(size) for size in np.unique(train["world_size"])],
        account=account_of(stages[-1].record),
        decisions=run.decisions,
        last_step=train.step(-1),
        n_starts=len(run.metrics.of["start"]),
        n_ends=len(run.metrics.of["end"]),
        device=run.metrics.device,
        config_text=run.config_text,
        sample_text=run.sample_text,
        samples=run.samples,
        evaluations=run.evaluations,
    )


def _series(run: Run, ratios: np.ndarray) -> dict[str, Series]:
    train = run.train
    return {
        "loss": recorded(train, "loss"),
        "mean_loss": running_mean(train, "loss"),
        "val_loss": recorded(run.val, "val_loss"),
        **slopes(run.checks),
        "loss_ratio": ratio_of(train, ratios),
        "loss_ratio_peaks": ratio_peaks(train, ratios),
        "grad_norm": recorded(train, "grad_norm"),
        "grad_norm_peaks": peaks(train, "grad_norm"),
        "second_moment": where_known(train, "second_moment"),
        "second_moment_peaks": peaks(train, "second_moment"),
        "tokens_per_s": recorded(train, "tokens_per_s"),
        "mean_tokens_per_s": running_mean(train, "tokens_per_s", N_PEAKS),
        "mfu": where_known(train, "mfu"),
        "mean_mfu": running_mean(train, "mfu", N_PEAKS),
        "decisions": decision_series(train, run.decisions),
    }


def _worker_changes(train: Columns) -> list[WorkerChange]:
    sizes = train["world_size"]
    return [
        WorkerChange(train.step(i + 1), float(train["tokens_seen"][i]), int(sizes[i]), int(sizes[i + 1]))
        for i in np.flatnonzero(np.diff(sizes)).tolist()
    ]
