"""One rank of one attempt: the same code under Ray Train, under torchrun and in a plain process."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raystage.config.schema import Runtime
from raystage.data.progress import Progress, no_progress
from raystage.devices.cores import keep_near_memory, n_cores
from raystage.devices.device import Device
from raystage.devices.ranks import Ranks
from raystage.runtime.assignment import Assignment
from raystage.runtime.commands_file import CommandsFile
from raystage.runtime.failures import note_failure
from raystage.runtime.node_corpus import corpus_on_every_node
from raystage.runtime.run_storage import RunStorage
from raystage.runtime.system_usage import SystemUsage
from raystage.tracking.records import DECISIONS_FILE, METRICS_FILE, JsonlWriter, read_records
from raystage.training.checkpoint import Stored
from raystage.training.fit_job import fitted
from raystage.training.job import Job
from raystage.training.loop import Loop
from raystage.training.manifest import Manifest
from raystage.training.ports import Asked, Ending, RemoteController, nothing_asked
from raystage.training.preflight import preflight
from raystage.training.run import Outside, Run
from raystage.training.worker_range import Workers, workers_of


class FileRecorder:
    """Writes the run folder's two record files, which everything that shows or tracks the run reads."""

    def __init__(self, run_dir: Path, resume: Stored | None, usage: SystemUsage) -> None:
        self._usage = usage
        self._metrics = JsonlWriter(run_dir / METRICS_FILE)
        self._decisions = JsonlWriter(run_dir / DECISIONS_FILE)
        # what comes after the checkpoint is done again and would stand there twice
        self._metrics.truncate_after(resume.manifest.counters.step if resume else 0)
        if resume:
            self._metrics.drop(lambda record: _is_repeated(record, resume.manifest))
        self._decisions.truncate_after(len(resume.manifest.decisions) if resume else 0, key="decision_id")
        if resume and len(read_records(run_dir / DECISIONS_FILE)) < len(resume.manifest.decisions):
            self._decisions.drop(lambda record: True)  # a full disk did not take some of them
            self._decisions.write(*resume.manifest.decisions)

    def metrics(self, records: list[dict[str, Any]]) -> None:
        last = records[-1]
        usage = self._usage.due_record(last) if last["kind"] == "train" else None
        self._metrics.write(*records, *([usage] if usage else []))
        self._decisions.catch_up()  # decisions are few: the next one may never come

    def decision(self, record: dict[str, Any]) -> None:
        self._decisions.write(record)


def cache_of(runtime: Runtime) -> Path | None:
    """The folder for compiled programs on this node."""
    return Path(runtime.compile_cache).expanduser() if runtime.compile_cache else None


def threads_of(runtime: Runtime, n_workers: int = 1) -> int:
    """[threads] of each of `n_workers` on this machine."""
    return runtime.threads_per_worker or max(1, n_cores() // n_workers)


def settle(device: Device, runtime: Runtime, place: int, n_here: int) -> int:
    """This worker's [threads]; on CPUs near its memory from now on. `place`: of `n_here` workers on this machine."""
    threads = threads_of(runtime, n_here)
    if device.torch_device.type == "cpu":
        keep_near_memory(place, n_here)
    return threads


def run_rank(
    assignment: Assignment,
    device: Device,
    ranks: Ranks,
    threads: int,
    remote: Callable[[int], RemoteController] | None = None,
    asked: Asked = nothing_asked,
    group: Workers | None = None,
    progress: Progress = no_progress,
) -> Ending:
    """Trains to the end, or until `asked` for something else. `remote` makes rank 0's controller for an attempt.

    `group`: the range that this group of workers was made for; where a stage is for another one, it is left. `progress`: hears of the rows
    and the checkpoint that are fetched before the first step.
    """
    device.prepare(threads, assignment.config.runtime.deterministic)
    storage = RunStorage(assignment.config, assignment.run_dir, progress)
    folder = storage.folder
    corpus = corpus_on_every_node(assignment.config.data, assignment.corpus_folder, ranks, storage.patience, progress)
    attempt, resume = storage.begin(ranks)
    job = Job(assignment.config, corpus, folder.path, attempt, storage.bring)
    if not ranks.is_first:
        return _train(job, resume, device, ranks, None, group)
    usage = SystemUsage(assignment.config.tracking.system_every_s, folder.path)
    recorder = storage.log.begin(FileRecorder(folder.path, resume, usage), resume.manifest.counters.step if resume else 0, attempt)
    with storage.mirror() as mirror:
        outside = Outside(
            recorder=recorder,
            remote=remote(attempt) if remote else None,
            asked=asked,
            commands=CommandsFile(folder.path),
            still_ours=lambda: folder.attempt() <= attempt and not mirror.is_fenced,
            tracking_run_id=lambda: _mlflow_run_id(folder.path),
            mirror=mirror,
            patience=storage.patience,
        )
        return _train(job, resume, device, ranks, outside, group)


def _train(job: Job, resume: Stored | None, device: Device, ranks: Ranks, outside: Outside | None, group: Workers | None) -> Ending:
    job = fitted(job, device, ranks)
    step, position = (resume.manifest.counters.step, resume.manifest.position) if resume else (0, 0)
    alive = functools.partial(outside.asked, step, position) if outside else lambda: None
    rehearsed = preflight(job, device, ranks, alive) if job.config.training.preflight else None
    run = Run(job, resume, device, ranks, outside, rehearsed)
    loop = Loop(run, resume, lambda position: group is not None and workers_of(job.config, position) != group)
    try:
        return loop.train()
    except Exception as error:
        note_failure(job.run_dir, job.attempt, ranks.rank, loop.where(), error)
        raise


def _is_repeated(record: dict[str, Any], manifest: Manifest) -> bool:
    """A check beyond the controller's watermark, or the validation that ends a stage when the change is still to come."""
    if record["kind"] == "check":
        return bool(record["step"] > manifest.controller.watermark)
    before_change = manifest.reason.startswith("before-")
    return record["kind"] == "val" and record["stage_end"] and before_change and bool(record["step"] == manifest.counters.step)


def _mlflow_run_id(run_dir: Path) -> str | None:
    try:
        return str(json.loads((run_dir / "mlflow.json").read_text())["run_id"])
    except (OSError, ValueError, KeyError):
        return None
