"""A search from its driver's seat: the space checked, the data prepared, trials run by Ray Tune, the best written down."""

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError

from raystage.config import Config, ConfigError, flat, to_tree
from raystage.config.duration import parse_duration
from raystage.config.search import Search
from raystage.config.search_space import Space
from raystage.data.progress import Progress
from raystage.models.count import flops_per_token
from raystage.runtime.driver import prepare_corpus
from raystage.runtime.engine import EngineError
from raystage.runtime.hardware import hardware_of
from raystage.runtime.ray_actors import free_orphans
from raystage.runtime.ray_cluster import connect
from raystage.runtime.ray_nodes import ray_nodes
from raystage.runtime.run_folder import MAY_CHANGE, RunFolder, write_whole
from raystage.tracking.records import RunRecords
from raystage.training.target_cost import target_spec
from raystage.training.worker_range import all_ranges
from raystage.tuning.best import write_best
from raystage.tuning.book import TRIALS_FILE, Book
from raystage.tuning.outcome import Outcome
from raystage.tuning.search_report import build_search_report
from raystage.tuning.search_tracking import SearchTracking
from raystage.tuning.searcher import BookSearcher, scheduler_of
from raystage.tuning.strategies import strategy_of
from raystage.tuning.summary import Summary, summary_of
from raystage.tuning.trial import Job, needs_of, run_trial
from raystage.tuning.trial_config import Trial, TrialConfigs, check_space

Show = Callable[[Book, set[str]], None]
_MANY, _CLEAN_EVERY_S = 10**6, 1.0


@dataclasses.dataclass(frozen=True)
class Found:
    """`best`: the configuration to train with, None where every point was rejected; `finished`: false where it was stopped before."""

    folder: Path
    best: Path | None
    page: Path
    finished: bool
    summary: Summary


def run_search(search: Search, space: Space, base: Config, progress: Progress, say: Callable[[str], None], show: Show) -> Found:
    """Runs, or goes on with, the search. Raises ConfigError before a trial starts."""
    root = RunFolder.of(dataclasses.replace(base, name=search.name))
    if (root.path / "config.yaml").is_file():
        raise ConfigError(f"name={search.name}: {root.path} is the folder of a run; choose another name")
    configs = TrialConfigs(search, base, str(root.path / "trials"))
    check_space(search, space, configs)
    for workers in all_ranges(configs.base):
        if workers.low != workers.high:
            raise ConfigError("runtime.workers: the trials of a search have a fixed number of workers; give that number")
    with root.locked():
        keep_settings(root.path, search, space, configs.base)
        prepare_corpus(base, progress, say)
        connect(base)
        return _run(search, space, configs, root.path, say, show)


def _run(search: Search, space: Space, configs: TrialConfigs, folder: Path, say: Callable[[str], None], show: Show) -> Found:
    strategy = strategy_of(search, space)
    book = Book(folder, strategy, search.strategy.seeds, one_seed_first=search.strategy.kind == "asha")
    tracking = SearchTracking(search, space, configs.base, folder, configs.folder_of)
    tracking.make_good(book)
    job = Job(configs, search.objective, search.constraints, tracking.tags_of_trials, Path.cwd(), search.strategy.seeds[0])
    running: set[str] = set()
    show(book, running)
    if book.outcomes:
        say(f"going on with search {search.name!r}: {len(book.outcomes)} of its trials have ended")

    def ended(trial: Trial, outcome: Outcome) -> None:
        running.discard(trial.name)
        tracking.trial_ended(trial, outcome)
        say(line_of(trial, outcome))
        show(book, running)

    searcher = BookSearcher(book, configs.refusal, job.outcome, ended)
    _quiet_tune()
    # Tune's own folder of results is not where anything is looked up: a new one each time
    tune_dir = folder / "ray" / f"{os.getpid()}-{int(time.time())}"
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, job=job), needs_of(configs.base)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler_of(search.strategy, _horizon_tokens(configs), _past(book, configs, job.compared_seed)),
            num_samples=-1,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            max_concurrent_trials=min(search.trials.max_concurrent or _MANY, _room(configs.base)),
            time_budget_s=60 * search.trials.minutes if search.trials.minutes else None,
        ),
        run_config=tune.RunConfig(
            name=tune_dir.name,
            storage_path=str(tune_dir.parent.absolute()),
            failure_config=tune.FailureConfig(max_failures=search.trials.max_failures),
            verbose=0,
            callbacks=[_Showing(book, running, show)],
        ),
    )
    finished = False
    page = folder / "report" / "index.html"
    try:
        tuner.fit()
        finished = book.is_done
    except (tune.TuneError, RayError) as error:
        raise EngineError(f"Ray Tune: {str(error).strip().splitlines()[-1]}; the same command goes on") from error
    finally:
        summary = summary_of(book, configs)
        best = write_best(search, summary, configs, folder)
        try:
            page = build_search_report(search, space, book, configs, summary, folder)
        finally:
            tracking.close(book, best, page.parent, finished)
    return Found(folder, best, page, finished, summary)


def _name(trial: Any) -> str:
    return str(trial.config["trial"]["name"])


class _Showing(tune.Callback):
    """Draws what happens; and gives back what trials that were ended have held, which is known only when their processes are gone."""

    def __init__(self, book: Book, running: set[str], show: Show) -> None:
        self._book, self._running, self._show = book, running, show
        self._cleaned_s = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._cleaned_s > _CLEAN_EVERY_S:
            self._cleaned_s = time.monotonic()
            with contextlib.suppress(RayError):
                free_orphans()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # of no use in the copies that Tune keeps

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.add(_name(trial))
        self._show(self._book, self._running)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._show(self._book, self._running)


def line_of(trial: Trial, outcome: Outcome) -> str:
    """How a trial ended, in a line."""
    if outcome.status != "done":
        return f"{trial.name}: {outcome.status} at step {outcome.steps}"
    value = "" if outcome.value is None else f"{outcome.value:.4g}"
    return f"{trial.name}: {value}{f' - rejected: {outcome.rejected}' if outcome.rejected else ''}"


def _quiet_tune() -> None:
    """Without its own table and files of results, which the book and the view have; trials stay in the folder that paths count from."""
    for key, value in {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0"}.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)


def keep_settings(folder: Path, search: Search, space: Space, base: Config) -> None:
    """A search goes on as it began. Raises ConfigError where its file says otherwise now."""
    now = json.loads(json.dumps(_settings(search, space, base)))
    path, begun = folder / "search.json", (folder / TRIALS_FILE).is_file() and (folder / TRIALS_FILE).stat().st_size > 0
    before = json.loads(path.read_text()) if begun and path.is_file() else now
    default = json.loads(json.dumps({**flat(to_tree(Config())), **flat(to_tree(Search()), "search")}))
    # a key that was not there yet when the search began had what is its default
    before = {key: value for key, value in default.items() if key in now and key not in before} | before
    if different := [key for key in {**now, **before} if now.get(key) != before.get(key)]:
        key = different[0]
        raise ConfigError(
            f"{key}={now.get(key)}: search {search.name!r} began with {before.get(key)}; keep that value, choose another name, "
            f"or move {folder} away"
        )
    write_whole(path, json.dumps(now, indent=1))


def _settings(search: Search, space: Space, base: Config) -> dict[str, Any]:
    """What decides the trials: not where they are trained, how many at once, or which file the base was read from."""
    own = {key: value for key, value in flat(to_tree(search), "search").items() if not key.startswith(("search.base", "search.trials."))}
    elsewhere = tuple(key for key in MAY_CHANGE if not key.startswith("training."))
    return {
        **own,
        "search.space": repr(space),
        **{key: value for key, value in flat(to_tree(base)).items() if not key.startswith(elsewhere)},
    }


def _past(book: Book, configs: TrialConfigs, seed: int) -> dict[str, Any]:
    """Validations of the trials that have ended, of the seed whose trials Tune compares."""
    folders = {name: configs.folder_of(book.trials[name]) for name in book.outcomes if book.trials[name].seed == seed}
    return {name: RunRecords.load(path).val for name, path in folders.items() if (path / "metrics.jsonl").is_file()}


def _room(base: Config) -> int:
    """How many trials the cluster holds side by side."""
    n_workers = 1 if base.runtime.engine == "local" else max(workers.high for workers in all_ranges(base))
    room = hardware_of(base).room(ray_nodes())
    if room < n_workers:
        raise ConfigError(f"runtime.workers={n_workers}: a trial needs as many, and the cluster has room for {room}")
    return room // n_workers


def _horizon_tokens(configs: TrialConfigs) -> float:
    base = configs.base
    duration = parse_duration(configs.horizon or base.training.duration)
    if duration.unit == "tokens":
        return duration.amount
    if duration.unit == "flops":
        return duration.amount / flops_per_token(target_spec(base), base.model.context_length)
    if duration.unit == "steps":
        return duration.amount * base.training.batch_tokens
    raise ConfigError("strategy.kind=asha: ends trials by tokens, and the horizon is in hours; give it in tokens, steps or flops")
