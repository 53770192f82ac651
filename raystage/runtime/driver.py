"""The main job from the driver's seat: prepare, train with everything following along, wrap up.

On Ray the driver computes nothing, and training begins seconds earlier where it imports no torch before its end.
"""

import contextlib
import dataclasses
import signal
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raystage.config import Config, ConfigError, to_tree
from raystage.config.duration import parse_duration
from raystage.config.sizes import vocab_size_of
from raystage.data.corpus import Corpus
from raystage.data.encoding import EncodeFiles
from raystage.data.prepare import gives, prepare
from raystage.data.progress import Progress
from raystage.runtime.assignment import Assignment
from raystage.runtime.driver_storage import DriverStorage
from raystage.runtime.engine import Engine, EngineError
from raystage.runtime.job_package import check_place_in_package, check_places_of_nodes
from raystage.runtime.origin import origin_of
from raystage.runtime.run_folder import TOKENIZER_FOLDER, RunFolder
from raystage.storage.address import is_uri
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience
from raystage.tracking import Follower, Sink
from raystage.tracking.console import Console
from raystage.tracking.goal import Goal
from raystage.tracking.mlflow_mark import Status
from raystage.tracking.mlflow_products import products_of
from raystage.tracking.mlflow_sink import MlflowSink
from raystage.tracking.provenance import write_provenance
from raystage.training.checkpoint import CheckpointStore
from raystage.training.policy import NO_TIME, has_time_for_all

if TYPE_CHECKING:
    from raystage.runtime.wrap_up import Products

_LAST_DELIVERY_S = 30.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`finished`: false after a stop on request, true when the duration is done."""

    finished: bool
    folder: RunFolder
    products: "Products | None"


@dataclasses.dataclass(frozen=True)
class Part:
    """What a run is part of, like a search: tags for its MLflow run, and who else follows its records.

    It shows nothing in the terminal, and nothing is made of its model.
    """

    tags: Mapping[str, str]
    sinks: Sequence[Sink]


def prepare_corpus(
    config: Config, progress: Progress, say: Callable[[str], None], patience: Patience | None = None, trained_on: str | None = None
) -> Corpus:
    """The corpus, checked against the model; `trained_on`: digest of the one that the run has. Raises ConfigError, first of all for places
    that others of the cluster would not see or that would end with a job; EngineError where its store is away for too long."""
    check_place_in_package(config, Path.cwd())
    try:
        corpus = prepare(config.data, progress, patience, _cluster_tasks(config, say), trained_on)
    except StorageError as error:
        raise EngineError(str(error)) from error
    try:
        vocab_size_of(config, corpus.vocab_size)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for rows in (corpus.train_rows, corpus.validation_rows):
        rows(config.model.context_length)
    if trained_on is not None and not gives(config.data, trained_on):
        say(f"the text has changed since the run began, or is gone: it goes on with what it has in {corpus.folder}")
    return corpus


def _cluster_tasks(config: Config, say: Callable[[str], None]) -> EncodeFiles | None:
    """Where the run joins a cluster, its nodes tokenize; a machine of one's own does so in this process."""
    if config.runtime.engine != "ray":
        return None
    from raystage.runtime.ray_cluster import cluster_address, connect
    from raystage.runtime.ray_nodes import host_names
    from raystage.runtime.ray_prepare import ClusterTasks

    if cluster_address(config) is None:
        return None
    connect(config)
    check_places_of_nodes(config, host_names())
    return ClusterTasks(say)


def train(
    config: Config, make_engine: Callable[[], Engine], progress: Progress, say: Callable[[str], None], part: Part | None = None
) -> Outcome:
    """Runs or resumes the run `config.name`. Raises ConfigError before anything starts, EngineError when training fails."""
    patience = Patience(60 * config.checkpoint.storage_retry_minutes, lambda trouble: say(str(trouble)))
    try:
        return _train_in_storage(config, make_engine, progress, say, patience, part)
    except StorageError as error:
        raise EngineError(str(error)) from error


def _train_in_storage(
    config: Config,
    make_engine: Callable[[], Engine],
    progress: Progress,
    say: Callable[[str], None],
    patience: Patience,
    part: Part | None,
) -> Outcome:
    folder = RunFolder.of(config)
    elsewhere = DriverStorage(config, folder, patience, say, progress)
    elsewhere.check_writable()
    folder.changes(config)
    _check_weights(config)
    _check_texts(config)
    corpus = prepare_corpus(config, progress, say, patience, elsewhere.corpus_digest())
    with folder.locked():
        elsewhere.take_up()
        for change in folder.accept(config):
            say(f"changed since the last attempt: {change}")
        elsewhere.push_configuration()
        damage: list[str] = []
        # what has ended here and is not at its URI yet is for the engine, whose ranks send it
        finished = elsewhere.is_finished() or (_is_finished(config, folder, damage) and not is_uri(config.storage))
        for line in damage:
            say(line)
        if finished:
            say(f"run {config.name!r} is complete; a longer training.duration goes on from its end")
        else:
            if not has_time_for_all(config):
                say(NO_TIME)
            elsewhere.bring_where_it_trains()
        return _train(config, corpus, folder, None if finished else make_engine, elsewhere, part, say)


def _check_weights(config: Config) -> None:
    if config.init_from.path is not None:
        from raystage.training.start import find_checkpoint  # imports torch
        from raystage.training.weight_files import read_headers

        try:
            read_headers(find_checkpoint(Path(config.init_from.path).expanduser()))
        except ValueError as error:
            raise ConfigError(f"init_from.path: {error}") from None


def _check_texts(config: Config) -> None:
    """Not with the other checks of keys: a run's configuration is read where its texts are not, too."""
    wanted = config.evaluation
    for name in (*wanted.texts, *([wanted.lambada] if wanted.lambada else [])):
        if wanted.beside_training and not Path(name).expanduser().is_file():
            raise ConfigError(f"evaluation: {name} is no file; name texts that are there, on every node")


def _is_finished(config: Config, folder: RunFolder, damage: list[str]) -> bool:
    store = CheckpointStore(folder.path)
    stored = store.latest_good(on_damage=damage)
    if stored is None and store.folders():
        raise ConfigError(f"{store.folder}: none of its checkpoints is usable; move them away to start again, or choose another name")
    return stored is not None and stored.manifest.is_end_of(parse_duration(config.training.duration))


def _train(
    config: Config,
    corpus: Corpus,
    folder: RunFolder,
    make_engine: Callable[[], Engine] | None,
    elsewhere: DriverStorage,
    part: Part | None,
    say: Callable[[str], None],
) -> Outcome:
    """Everything that follows the run, around the engine; without one the run is complete, and its records may wait."""
    tags = part.tags if part else {}
    write_provenance(folder.path, *origin_of(config, corpus))
    corpus.save_tokenizer(folder.path / TOKENIZER_FOLDER)
    mlflow = MlflowSink.open(folder.path, config.tracking, to_tree(config), config.name, tags=tags) if config.tracking.mlflow else None
    elsewhere.push_configuration()  # with the name of its MLflow run, for whoever goes on after this driver
    console = Console(Goal.of(config), config.name, after_attempt=elsewhere.last_attempt())
    shown: Sequence[Sink] = part.sinks if part else [console] if make_engine else []
    sinks: list[Sink] = [*shown, *([mlflow] if mlflow else [])]
    follower = Follower(folder.path, sinks)
    products: Products | None = None
    finished = make_engine is None
    status: Status = "FAILED"
    try:
        follower.start()
        if make_engine:
            engine = make_engine()
            if part is None:
                console.start()
            with _stopping_on_signals(engine.request_stop), elsewhere.following():
                assignment = Assignment(_with_absolute_paths(config), corpus.folder.absolute(), folder.path)
                finished = engine.train(assignment, console.say)
        status = "FINISHED" if finished else "KILLED"
    finally:
        left = follower.stop(_LAST_DELIVERY_S)
        console.close()
        try:
            if finished:
                elsewhere.bring_newest()
                products = _wrap_up(config, corpus, folder) if part is None else None
        finally:
            if mlflow:
                _hand_over(mlflow, config, folder, status, is_away=bool(left[mlflow.name]), say=say)
            elsewhere.push_products(failed=status == "FAILED")
    return Outcome(finished, folder, products)


def _wrap_up(config: Config, corpus: Corpus, folder: RunFolder) -> "Products":
    try:
        from raystage.runtime.wrap_up import wrap_up  # imports torch
    except ImportError as error:
        raise EngineError(f"trained to its end, but raystage has been changed meanwhile ({error}); the same command goes on") from None
    return wrap_up(config, corpus, folder)


def _with_absolute_paths(config: Config) -> Config:
    """What ranks read must not depend on the folder that they run in."""
    path = config.init_from.path
    absolute = str(Path(path).expanduser().absolute()) if path else None
    return dataclasses.replace(config, init_from=dataclasses.replace(config.init_from, path=absolute))


def _hand_over(mlflow: MlflowSink, config: Config, folder: RunFolder, status: Status, is_away: bool, say: Callable[[str], None]) -> None:
    """Where records could not be delivered, nothing else is tried: an end waits for MLflow once, not for each file."""
    products = products_of(folder.path, config.tracking)
    trouble = "records are left over" if is_away else mlflow.hand_over(products, status)
    if trouble:
        say(f"MLflow: incomplete ({trouble}); nothing is lost: 'raystage sync {folder.path}' sends the rest")


@contextlib.contextmanager
def _stopping_on_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a stop with a checkpoint; a second one ends the process as ever.

    Signals reach the main thread alone: elsewhere, as in a trial, whoever has that thread answers them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: types.FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])
        request_stop()

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
