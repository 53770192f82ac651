"""Decisions by hand, also for a run whose storage is a URI."""

import json
from pathlib import Path

from raystage.config import ConfigError
from raystage.runtime.commands_file import ask, check_wish, command_line
from raystage.runtime.remote_run import CONFIG_FILE, RemoteRun
from raystage.runtime.run_folder import RunFolder
from raystage.storage.address import is_uri
from raystage.storage.faults import StorageError
from raystage.storage.patience import Patience

_PATIENCE_S = 20.0


def ask_anywhere(storage: str, action: str, name: str | None, what: str | None) -> str:
    """Adds a command to a run of a folder or of a URI; returns a line that says so. Raises ConfigError."""
    if not is_uri(storage):
        return ask(Path(storage), action, name, what)
    try:
        return ask_elsewhere(storage, action, name, what)
    except StorageError as error:
        raise ConfigError(str(error)) from None


def ask_elsewhere(storage: str, action: str, name: str | None, what: str | None) -> str:
    """Leaves a command in the run's storage; returns a line that says so. Raises ConfigError for a run or wish that does not exist."""
    name = check_wish(action, name, what)
    run = RemoteRun.at(storage, RunFolder(Path(name)), Patience(_PATIENCE_S))
    if run.remote.read(CONFIG_FILE) is None:
        raise ConfigError(f"{run.remote.uri}: no such run; 'raystage runs --storage {storage}' lists them")
    if run.checkpoints.ends_with_end():
        raise ConfigError(f"{run.remote.uri}: this run is complete; nothing there is left to decide")
    run.ask(json.dumps(command_line(action, what)).encode())
    return f"{action} asked of {name}: its workers look there a few times a minute, and it takes effect at the check after that"
