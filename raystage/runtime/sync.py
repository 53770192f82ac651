"""`raystage sync`: what MLflow does not have of a run yet, sent from its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from raystage.config import Config, ConfigError, load, to_tree
from raystage.config.names import check_name
from raystage.runtime.engine import EngineError
from raystage.runtime.remote_run import CONFIG_FILE, OF_DRIVER, OF_RANK_0, RemoteRun
from raystage.runtime.run_folder import RunFolder, folder_of_runs
from raystage.storage.address import is_uri
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience
from raystage.tracking.follower import deliver
from raystage.tracking.mlflow_client import absolute_uri, is_missing_file, patient, tracking_uri
from raystage.tracking.mlflow_mark import Status, load_mark
from raystage.tracking.mlflow_products import products_of
from raystage.tracking.mlflow_sink import MlflowSink
from raystage.tracking.records import METRICS_FILE, read_records
from raystage.tracking.sink import SinkError

_PATIENCE_S = 20.0


def sync(run: str, overrides: Sequence[str], say: Callable[[str], None]) -> None:
    """Sends records, decisions and products of a run folder, or of a run at a URI, to MLflow, each once.

    `overrides`: keys of tracking, to send it elsewhere than the run was told. Raises ConfigError for a folder without a run and for
    one that is being trained, EngineError where MLflow cannot be reached: then nothing is lost, and the same command goes on.
    """
    if stranger := next((override for override in overrides if not override.startswith("tracking.")), None):
        raise ConfigError(f"{stranger}: only keys of tracking can differ from the run's, like tracking.mlflow_uri=http://host:5000")
    folder, elsewhere = _folder_of(run)
    with folder.locked(), patient():
        if elsewhere is not None:
            _bring(elsewhere)
        config = load(folder.path / CONFIG_FILE, overrides)
        uri = tracking_uri(config.tracking)
        if load_mark(folder.path, absolute_uri(config.tracking)) is not None and is_missing_file(uri):
            raise ConfigError(f"{uri}: not in this folder; run the command where the run was trained, or give tracking.mlflow_uri=...")
        try:
            run_id = _send(config, folder)
        except SinkError as error:
            raise EngineError(f"MLflow: {error}; nothing is lost: the same command goes on from here") from error
        if elsewhere is not None:
            _push_mark(elsewhere)
    say(f"MLflow has all of {config.name!r}: run {run_id} in {uri}")


def _bring(elsewhere: RemoteRun) -> None:
    """What is there to this machine, unless rank 0 works here: then this folder knows more."""
    try:
        if not elsewhere.works_here():
            elsewhere.fetch((*OF_DRIVER, *OF_RANK_0))
            for products in ("report", "model", "evaluations"):
                elsewhere.fetch_folder(products)
    except StorageError as error:
        raise EngineError(f"{error}; nothing is lost") from error


def _push_mark(elsewhere: RemoteRun) -> None:
    try:
        elsewhere.push(OF_DRIVER)
    except StorageError as error:
        raise EngineError(f"{error}; MLflow has all of the run, and the same command makes a note of that") from error


def _send(config: Config, folder: RunFolder) -> str:
    sink = MlflowSink.open(folder.path, config.tracking, to_tree(config), config.name)
    deliver(folder.path, sink)
    if trouble := sink.hand_over(products_of(folder.path, config.tracking), _status(folder.path)):
        raise SinkError(trouble)
    assert sink.run_id is not None
    return sink.run_id


def _status(run_dir: Path) -> Status:
    """How the run ended: by its records, else as its driver said, else it was killed before it could say."""
    if any(record.get("kind") == "end" for record in read_records(run_dir / METRICS_FILE)[-5:]):
        return "FINISHED"
    mark = load_mark(run_dir)
    return mark.status if mark and mark.status else "KILLED"


def _refuse_while_trained(run: str, elsewhere: RemoteRun) -> None:
    """Raises ConfigError where another machine may be at it: this machine's lock says nothing of that one."""
    newest = elsewhere.checkpoints.all()[-1:]
    has_stopped = bool(newest) and newest[0].manifest.reason in ("end", "stop")
    if not has_stopped and not elsewhere.works_here():
        raise ConfigError(f"{run}: is being trained on another machine, or was cut off there; its next start sends what is missing")


def _folder_of(run: str) -> tuple[RunFolder, RemoteRun | None]:
    """Where the run is worked on, on this machine. Raises ConfigError where there is none."""
    if not is_uri(run):
        if not (Path(run) / CONFIG_FILE).is_file():
            raise ConfigError(f"{run}: no run folder (it has no {CONFIG_FILE}); 'raystage runs' lists runs")
        return RunFolder(Path(run)), None
    storage, _, name = run.rstrip("/").rpartition("/")
    folder = RunFolder(folder_of_runs(storage, Config().storage_cache) / check_name(name, "run"))
    elsewhere = RemoteRun.at(storage, folder, Patience(_PATIENCE_S))
    try:
        if elsewhere.remote.read(CONFIG_FILE) is None:
            raise ConfigError(f"{run}: no such run; 'raystage runs --storage {storage}' lists them")
        _refuse_while_trained(run, elsewhere)
    except StorageError as error:
        raise EngineError(f"{error}; nothing is lost") from error
    return folder, elsewhere
