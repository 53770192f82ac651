"""Tokens a second by stage shape and number of workers."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from raystage.report.cited import Cited
from raystage.report.columns import Columns
from raystage.report.series import Series
from raystage.report.stages import Stage


@dataclasses.dataclass(frozen=True)
class Throughput:
    """The median over the steps of one shape on one number of workers."""

    run: str
    shape: str
    workers: int
    n_steps: int
    tokens_per_s: Cited


@dataclasses.dataclass(frozen=True)
class Scaling:
    """`ratio`: over the same shape on the fewest workers; `efficiency`: that over the ratio of the workers. None for the fewest."""

    throughput: Throughput
    fewest: Throughput
    ratio: float | None
    efficiency: float | None

    @property
    def source(self) -> str:
        """Which two medians it is made of."""
        ours, theirs = self.throughput, self.fewest
        return f"{ours.run}, {ours.tokens_per_s.source}; over {theirs.run}, {theirs.tokens_per_s.source}"


def throughputs_of(name: str, train: Columns, stages: Sequence[Stage]) -> list[Throughput]:
    """In the order of the stages; steps of one shape in several stages count together."""
    rows = []
    for shape in dict.fromkeys(stage.shape for stage in stages):
        inside = np.concatenate([np.arange(stage.first, stage.last + 1) for stage in stages if stage.shape == shape])
        inside = inside[np.isfinite(train["tokens_per_s"][inside])]
        for workers in np.unique(train["world_size"][inside]):
            rows.append(_median(name, shape, train, inside[train["world_size"][inside] == workers]))
    return rows


def scaling_of(throughputs: Sequence[Throughput]) -> list[Scaling]:
    """Of the shapes that were trained on several numbers of workers, in one run or in several; none if there is no such shape."""
    rows = []
    for shape in dict.fromkeys(row.shape for row in throughputs):
        same = sorted((row for row in throughputs if row.shape == shape), key=lambda row: row.workers)
        if same[0].workers < same[-1].workers:
            rows += [_scaling(row, same[0]) for row in same]
    return rows


def throughput_series(rows: Sequence[Throughput]) -> Series:
    """Of one shape: a point for each run and number of workers, at the last step that it is the median of."""
    at = {"world_size": [row.workers for row in rows], "step": [row.tokens_per_s.steps[-1] for row in rows]}
    y = np.array([row.tokens_per_s.value for row in rows], dtype=np.float64)
    how = "median over the steps on each number of workers"
    n_steps = sum(row.n_steps for row in rows)
    arrays = {key: np.array(values, dtype=np.float64) for key, values in at.items()}
    return Series("train", "tokens_per_s", how, n_steps, n_steps, arrays, y, is_smooth=True)


def _median(name: str, shape: str, train: Columns, positions: np.ndarray) -> Throughput:
    first, last, workers = int(positions[0]), int(positions[-1]), int(train["world_size"][positions[0]])
    how = f"median over the {len(positions)} steps of {shape} on {workers} workers, from the first step named to the last"
    value = Cited(float(np.median(train["tokens_per_s"][positions])), "train", "tokens_per_s", (train.step(first), train.step(last)), how)
    return Throughput(name, shape, workers, len(positions), value)


def _scaling(row: Throughput, fewest: Throughput) -> Scaling:
    if row.workers == fewest.workers or not fewest.tokens_per_s.value or row.tokens_per_s.value is None:
        return Scaling(row, fewest, None, None)
    ratio = row.tokens_per_s.value / fewest.tokens_per_s.value
    return Scaling(row, fewest, ratio, ratio * fewest.workers / row.workers)
